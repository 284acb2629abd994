"""A message as lines of text, with the places marked that are at fault. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from worker.desk.masking import text_lines
from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_MOST_LINES: Final = 1500
_LONGEST_LINE: Final = 2000


class Line(NamedTuple):
    """One line of a message."""

    text: str
    mark: str = ""
    """`fault` where something is wrong, `hint` where something is probably meant otherwise."""


class Payload(NamedTuple):
    """A message to look at."""

    lines: Sequence[Line]
    is_cut: bool
    is_masked: bool


def payload(text: str, faults: Collection[int], hints: Collection[int] = (), *, is_masked: bool) -> Payload:
    """Return *text* as lines; those with the numbers *faults* and *hints* (from 1) are marked."""
    lines: list[Line] = []
    for number, line in enumerate(text_lines(text), 1):
        if number > _MOST_LINES:
            return Payload(lines, is_cut=True, is_masked=is_masked)
        shown = printable(line)
        shown = shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]} …"
        lines.append(Line(shown, "fault" if number in faults else "hint" if number in hints else ""))
    return Payload(lines, is_cut=False, is_masked=is_masked)
