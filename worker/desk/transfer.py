"""Letters as JSON lines, out of the collection and into it: for a colleague, a test, another installation."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

from worker.dead_letters.letter import LetterRecord, RecordResult, reopened
from worker.desk.audit import Action
from worker.desk.errors import usage
from worker.desk.masking import masked
from worker.desk.query import matching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from worker.desk.desk import Desk
    from worker.desk.filter import Filter

_FORMAT: Final = "cim-letter-1"
_BYTES: Final = ("body", "originalBody")
_AT_ONCE: Final = 500
_ID: Final = re.compile("[0-9a-f]{24}")


async def export(desk: Desk, chosen: Filter, *, reveal: bool = False) -> AsyncIterator[str]:
    """Yield the letters *chosen*, one JSON object a line; payloads masked unless *reveal*, which is audited.

    Masked letters are for reading: only revealed ones can be imported.
    """
    action = None
    if reveal:
        desk.check_may_change("", needs_reason=False)
        action = await Action.begin(desk, "export", "", filter=str(chosen))
    async for page in matching(desk, chosen):
        for letter in page:
            if action is not None:
                action.note(letter.id, "revealed")
            yield _text(letter, reveal=reveal)
    if action is not None:
        await action.end()


async def import_(
    desk: Desk, lines: Iterable[bytes], reason: str, progress: Callable[[int], None] = lambda _count: None
) -> Action:
    """Add the letters of exported *lines* as open ones; those that are there already stay as they are.

    All lines are read before the first letter is written. Raises `DeskError` naming the line that is no letter.
    """
    desk.check_may_change(reason)
    now = desk.clock.now_ms()
    letters = [_letter(line, number, now) for number, line in enumerate(lines, 1) if line.strip()]
    action = await Action.begin(desk, "import", reason, filter="")
    for start in range(0, len(letters), _AT_ONCE):
        some = letters[start : start + _AT_ONCE]
        for letter, result in zip(some, await desk.letters.insert(some), strict=True):
            action.note(letter.id, _RESULTS.get(result, "refused"))
        await action.flush()
        progress(len(some))
        if await action.was_cancelled():
            return action
    await action.end()
    return action


_RESULTS: Final = {RecordResult.RECORDED: "imported", RecordResult.ALREADY_RECORDED: "was there"}


def _line(letter: LetterRecord, *, reveal: bool) -> dict[str, Any]:
    document = {**letter.to_document(), "format": _FORMAT, "id": letter.id, "redacted": not reveal}
    del document["_id"], document["headers"]
    for name in _BYTES:
        if name in document:
            document[name] = base64.b64encode(document[name]).decode() if reveal else None
    return document


def _text(letter: LetterRecord, *, reveal: bool) -> str:
    """Return a letter's line; what is nested too deeply to be shown is in its bytes alone."""
    document = _line(letter, reveal=reveal)
    message = _json(letter.body)
    try:
        return json.dumps({**document, "message": message if reveal else masked(message)}, ensure_ascii=False)
    except RecursionError:
        return json.dumps({**document, "message": None}, ensure_ascii=False)


def _letter(line: bytes, number: int, now: int) -> LetterRecord:
    letter = None
    try:
        document = json.loads(line)
        if document["redacted"]:
            raise usage(f"line {number} is a redacted letter: export it with --reveal to import it")
        for name in _BYTES:
            if name in document:
                document[name] = base64.b64decode(document[name], validate=True)
        letter = LetterRecord.from_document({**document, "_id": document["id"], "headers": [], **reopened(now)})
        is_ours = _ID.fullmatch(letter.id) and LetterRecord.read(letter.to_document()) == letter
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if letter is None or not is_ours:
        raise usage(f"line {number} is no letter that `dead-letters export` wrote; nothing was imported")
    return letter


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
