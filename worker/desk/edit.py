"""Changing the message of letters: by rules over a filter, or one by hand. Validated before it is saved.

The original is kept. An edit changes what is replayed, never why the letter died. Sender id and message id make a
message what it is: they are locked unless forced.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from worker.cim.encoding import unpack
from worker.codes import Problem
from worker.dead_letters.letter import Status
from worker.desk.audit import Action
from worker.desk.errors import rejected, usage
from worker.desk.masking import masked_text, text_lines, unmasked_text
from worker.desk.paths import Path, dotted, parse_path, set_at, unset_at, value_at
from worker.desk.plan import Forecast, Prediction, forecast_all
from worker.desk.ports import Change
from worker.desk.query import get, matching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter

LOCKED: Final = (("id",), ("header", "sender", "id"))
_MAX_BYTES: Final = 16 * 1024 * 1024
_PACKING: Final = "content_encoding"
_BROKEN: Final = frozenset({Prediction.SAME, Prediction.NEW})
_EXAMPLES: Final = 3


class Rule(NamedTuple):
    """One change to a message."""

    verb: str
    """`set`, `unset` or `rename`."""
    path: Path
    value: Any = None
    """What is set, or the path that a renamed value gets."""

    def apply(self, document: Any) -> bool:
        """Change *document*; tell whether there was something to change."""
        if self.verb == "set":
            return set_at(document, self.path, self.value)
        if self.verb == "unset":
            return unset_at(document, self.path)
        found = value_at(document, self.path, _NOTHING)
        if found is _NOTHING or not unset_at(document, self.path):
            return False
        return set_at(document, self.value, found)

    def words(self) -> list[str]:
        """Return it as the words of a command line."""
        path = dotted(self.path)
        if self.verb == "set":
            return ["--set", f"{path}={json.dumps(self.value, ensure_ascii=False)}"]
        return ["--unset", path] if self.verb == "unset" else ["--rename", f"{path}={dotted(self.value)}"]


_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Rules:
    """Changes to messages, made in their order: renamed first, then unset, then set."""

    rules: tuple[Rule, ...]

    def edited(self, letter: LetterRecord) -> LetterRecord:
        """Return *letter* with its message changed; the very same letter where nothing is to change.

        A message that is no JSON, or JSON that cannot be written again, stays as it is: by rules it cannot be changed.
        """
        body = unpacked(letter)
        try:
            document = _exact(body)
            before = orjson.dumps(document)
            for rule in self.rules:
                rule.apply(document)
            after = orjson.dumps(document)
        except (ValueError, RecursionError, orjson.JSONEncodeError):
            return letter
        return letter if after == before else with_body(letter, after)

    def words(self) -> list[str]:
        """Return them as the words of a command line."""
        return [word for rule in self.rules for word in rule.words()]

    def __str__(self) -> str:
        return shlex.join(self.words())


def parse_rules(
    *, set_: Sequence[str] = (), unset: Sequence[str] = (), rename: Sequence[str] = (), force: bool = False
) -> Rules:
    """Return the rules of a command line. Raises `DeskError`; *force* allows to change what is locked."""
    rules = [_rename_rule(text) for text in rename]
    rules += [Rule("unset", parse_path(text)) for text in unset]
    rules += [_set_rule(text) for text in set_]
    if not rules:
        raise usage("nothing to change: give --set PATH=JSON, --unset PATH or --rename OLD=NEW")
    for rule in rules:
        touched = (rule.path, rule.value) if rule.verb == "rename" else (rule.path,)
        for path in touched:
            if not force and any(lock[: len(path)] == path for lock in LOCKED):
                raise usage(f"{dotted(path)} says whose message it is and is locked; --force changes it all the same")
    return Rules(tuple(rules))


def unpacked(letter: LetterRecord) -> bytes:
    """Return the bytes of a letter's message, unpacked if the publisher packed them and that can be done."""
    encoding = dict(letter.properties).get(_PACKING)
    if not encoding:
        return letter.body
    body = unpack(letter.body, encoding, max_bytes=_MAX_BYTES)
    return letter.body if isinstance(body, Problem) else body


def with_body(letter: LetterRecord, body: bytes) -> LetterRecord:
    """Return *letter* with another message, which is not packed."""
    properties = tuple((name, value) for name, value in letter.properties if name != _PACKING)
    original = letter.body if letter.original_body is None else letter.original_body
    return replace(letter, body=body, properties=properties, original_body=original, revision=letter.revision + 1)


def diff(before: LetterRecord, after: LetterRecord, *, reveal: bool = False) -> list[str]:
    """Return the lines of a unified diff of two messages, values masked unless *reveal*."""
    text = unmasked_text if reveal else masked_text
    old, new = text(unpacked(before)), text(unpacked(after))
    lines = difflib.unified_diff(text_lines(old), text_lines(new), "as it is", "as it would be", lineterm="")
    return list(lines)


@dataclass(slots=True)
class FixPreview:
    """What rules would do to many letters."""

    letters: int = 0
    changed: int = 0
    """Letters whose message would change."""
    fixed: int = 0
    """Of those, how many would not die again."""
    still_fail: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of those, how many would still die, by code and pointer; they are left as they are unless forced."""
    examples: list[tuple[LetterRecord, LetterRecord]] = field(default_factory=list)
    """A few letters before and after."""


async def preview(
    desk: Desk, chosen: Filter, rules: Rules, progress: Callable[[int], None] = lambda _count: None
) -> FixPreview:
    """Return what *rules* would do to the letters *chosen*, judged by today's code; nothing is changed."""
    made = FixPreview()
    async for page in matching(desk, chosen.to_be("fixed")):
        for before, after, forecast in await _edited(desk, page, rules):
            made.changed += 1
            if forecast.prediction in _BROKEN:
                made.still_fail[forecast.reason, forecast.pointer] += 1
            else:
                made.fixed += 1
            if len(made.examples) < _EXAMPLES:
                made.examples.append((before, after))
        made.letters += len(page)
        progress(len(page))
    return made


async def fix(
    desk: Desk,
    chosen: Filter,
    rules: Rules,
    reason: str,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda _count: None,
) -> Action:
    """Save what *rules* make of the letters *chosen*; returns the audited action with its counts.

    Only open letters that would not die again are changed; *force*: all that change.
    """
    desk.check_may_change(reason)
    chosen = chosen.to_be("fixed")
    action = await Action.begin(desk, "fix", reason, filter=str(chosen), rules=str(rules))
    async for page in matching(desk, chosen):
        for _, after, forecast in await _edited(desk, page, rules):
            if forecast.prediction in _BROKEN and not force:
                action.note(after.id, "left alone")
            else:
                action.note(after.id, "edited" if await _save(desk, after) else "changed meanwhile")
        await action.flush()
        progress(len(page))
        if await action.was_cancelled():
            return action
    await action.end()
    return action


async def edit(
    desk: Desk, letter_id: str, body: bytes, reason: str = "", *, revision: int | None = None, force: bool = False
) -> Forecast:
    """Save another message for one open letter, and return what a replay would do now. Raises `DeskError`.

    *body* must be JSON that today's code accepts, with the sender id and message id it had; *force* lifts that. Nothing
    is saved when it is refused, or when somebody else was faster: *revision* is that of the letter that was looked at.
    """
    desk.check_may_change(reason, needs_reason=False)
    after, forecast = await tried(desk, letter_id, body, revision=revision, force=force)
    if not await _save(desk, after):
        raise rejected(f"letter {letter_id} was changed by somebody else meanwhile; look at it again")
    action = await Action.begin(desk, "edit", reason, filter=letter_id)
    action.note(letter_id, "edited")
    await action.end()
    return forecast


async def tried(
    desk: Desk, letter_id: str, body: bytes, *, revision: int | None = None, force: bool = False
) -> tuple[LetterRecord, Forecast]:
    """Return a letter as `edit` would save it, and what a replay would do then; nothing is saved. Raises as `edit`."""
    before = await get(desk, letter_id)
    if before.status != Status.OPEN:
        raise rejected(f"letter {letter_id} is {before.status}: only open letters can be edited")
    if revision is not None and revision != before.revision:
        raise rejected(f"letter {letter_id} was changed by somebody else meanwhile; look at it again")
    document = _parsed(body)
    if not force:
        _check_locks(before, document)
    after = with_body(before, orjson.dumps(document))
    (forecast,) = await forecast_all(desk, [after], force=True)
    if forecast.prediction in _BROKEN and not force:
        at = f" at {forecast.pointer}" if forecast.pointer else ""
        text = f"it would die again: {forecast.reason}{at}; expected: {forecast.detail}"
        raise rejected(f"{text.rstrip('.')}; nothing was saved (--force saves it)")
    return after, forecast


async def _edited(
    desk: Desk, letters: Sequence[LetterRecord], rules: Rules
) -> list[tuple[LetterRecord, LetterRecord, Forecast]]:
    """Return each letter that the rules change, before and after, with what would become of it."""
    pairs = [(before, after) for before in letters if (after := rules.edited(before)) is not before]
    forecasts = await forecast_all(desk, [after for _, after in pairs], force=True)
    return [(before, after, forecast) for (before, after), forecast in zip(pairs, forecasts, strict=True)]


async def _save(desk: Desk, after: LetterRecord) -> bool:
    """Write an edited message; the guard is that nobody else edited or claimed the letter."""
    document = after.to_document()
    names = ("body", "bodyBytes", "properties", "revision", "originalBody")
    guard = {"status": Status.OPEN.value, "revision": after.revision - 1}
    return await desk.letters.change([after.id], guard, Change({name: document[name] for name in names})) == 1


def _check_locks(before: LetterRecord, document: object) -> None:
    try:
        old = json.loads(unpacked(before))
    except (ValueError, RecursionError):
        return
    for path in LOCKED:
        was, now = value_at(old, path), orjson.loads(orjson.dumps(value_at(document, path)))
        if was is not None and was != now:
            raise rejected(f"{dotted(path)} says whose message it is and is locked; --force changes it all the same")


def _parsed(body: bytes) -> Any:
    try:
        document = _exact(body)
    except (ValueError, RecursionError) as error:
        where = (
            f"line {error.lineno}, column {error.colno}: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else "not readable"
        )
        raise usage(f"that is no JSON ({where}); nothing was saved") from None
    if not isinstance(document, dict):
        raise usage("a message is a JSON object; nothing was saved")
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise usage("a message nested so deeply, or with half a character in it, cannot be saved") from None
    return document


def _exact(body: bytes) -> Any:
    """Parse JSON so that writing it again spells every number as it was."""
    return json.loads(body.decode("utf-8-sig"), parse_int=_spelled, parse_float=_spelled)


def _spelled(digits: str) -> orjson.Fragment:
    return orjson.Fragment(digits)


def _set_rule(text: str) -> Rule:
    name, equals, value = text.partition("=")
    path = parse_path(name.strip())
    if not equals:
        raise usage(f"--set {text!r} has no value; write --set {name.strip()}='JSON'")
    try:
        wanted = json.loads(value)
        orjson.dumps(wanted)
        return Rule("set", path, wanted)
    except (RecursionError, orjson.JSONEncodeError):
        raise usage(f"--set {dotted(path)}: this value is too large, too deep, or holds half a character") from None
    except ValueError:
        quoted = json.dumps(value, ensure_ascii=False)
        raise usage(f"the value {value!r} is no JSON; for a text write --set '{name.strip()}={quoted}'") from None


def _rename_rule(text: str) -> Rule:
    old, equals, new = text.partition("=")
    if not equals:
        raise usage(f"--rename {text!r} has no new name; write --rename header.customer.id=header.customer._id")
    return Rule("rename", parse_path(old.strip()), parse_path(new.strip()))
