"""One letter's story: why it died, what was sent and what was expected, where it came from, what a replay would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.cim.locate import MessageText
from worker.cim.warnings import find_warnings
from worker.codes import Code, WarningCode
from worker.dead_letters.letter import LetterProblem
from worker.desk.audit import revealed
from worker.desk.edit import unpacked
from worker.desk.masking import masked_text, text_lines, unmasked_text
from worker.desk.plan import forecast_all
from worker.desk.query import lineage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim.warnings import CimWarning
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.plan import Forecast

_MAX_BYTES: Final = 1024 * 1024
"""Payloads beyond are not shown."""


class Mark(NamedTuple):
    """A problem the letter died of, and where in the payload that is shown it stands."""

    code: str
    pointer: str
    expected: str
    found: str
    """What stands there, as a type or a shape; empty if that cannot be told."""
    line: int
    """Of the text shown, from 1; 0: nowhere."""
    column: int
    """In characters, from 1."""
    length: int


class Hint(NamedTuple):
    """What was probably meant."""

    pointer: str
    sentence: str
    rename: str
    """The rename that would mend it, as `fix` takes it; empty if it is another kind of mistake."""
    line: int
    """Of the text shown, from 1."""


@dataclass(frozen=True, slots=True)
class Details:
    """Everything there is to say about one letter."""

    letter: LetterRecord
    text: str
    """Its payload, pretty-printed; masked unless revealed."""
    original: str | None
    """As it arrived, when it was edited since; shown likewise."""
    marks: Sequence[Mark]
    hints: Sequence[Hint]
    forecast: Forecast
    lineage: Sequence[LetterRecord]
    """The letters it comes from and those it became, itself among them."""


async def details(desk: Desk, letter: LetterRecord, *, reveal: bool = False) -> Details:
    """Return the story of *letter*. *reveal* shows the values of its payload, and is written down in the audit."""
    if reveal:
        desk.check_may_change("", needs_reason=False)
        await revealed(desk, letter.id)
    body = unpacked(letter)
    text = _text(body, reveal=reveal)
    (forecast,) = await forecast_all(desk, [letter])
    problems = letter.problems or (LetterProblem(letter.code, letter.pointer, letter.detail),)
    warnings = find_warnings(body, received_at=desk.clock.now_ms(), max_bytes=_MAX_BYTES)
    return Details(
        letter,
        text,
        None if letter.original_body is None else _text(letter.original_body, reveal=reveal),
        [_mark(body, text, problem) for problem in problems],
        [_hint(text, one) for one in warnings],
        forecast,
        await lineage(desk, letter),
    )


def _text(body: bytes, *, reveal: bool) -> str:
    if len(body) > _MAX_BYTES:
        return f"<{len(body)} bytes: export the letter to look at it>"
    return unmasked_text(body) if reveal else masked_text(body)


def dotted(pointer: str) -> str:
    """Return a JSON pointer as people write places: `header.sender.type`."""
    return ".".join(_parts(pointer)) or "the whole message"


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _hint(text: str, warning: CimWarning) -> Hint:
    rename = ""
    if warning.code is WarningCode.MISSPELT_FIELD and warning.did_you_mean is not None:
        *around, last = _parts(warning.pointer)
        rename = "=".join(".".join([*around, name]) for name in (last, warning.did_you_mean))
    line = MessageText(text.encode("utf-8", "replace")).place_of(warning.code, warning.pointer).line
    return Hint(warning.pointer, warning.expected, rename, line)


def _mark(body: bytes, text: str, problem: LetterProblem) -> Mark:
    """Return a problem with what was sent there, and its place in the *text* that is shown."""
    try:
        code = Code(problem.code)
    except ValueError:
        return Mark(problem.code, problem.pointer, problem.expected, "", 0, 0, 0)
    found = MessageText(body).place_of(code, problem.pointer).found if len(body) <= _MAX_BYTES else ""
    if not problem.pointer:
        return Mark(problem.code, "", problem.expected, found, 0, 0, 0)
    place = MessageText(text.encode("utf-8", "replace")).place_of(code, problem.pointer)
    lines = text_lines(text[place.start : max(place.end, place.start + 1)])
    return Mark(problem.code, problem.pointer, problem.expected, found, place.line, place.column, len(lines[0]) or 1)
