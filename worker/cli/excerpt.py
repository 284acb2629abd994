"""Draws the line of a JSON text that a problem is on, with a caret under the place.

Values are not shown: text goes to terminals, build logs and screenshots. A string is drawn as "…" and a number as …;
what remains are the names of fields and the shape, which is what one looks for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from worker.ops.printable import printable

if TYPE_CHECKING:
    from worker.cim.locate import Place

_TOKEN: Final = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*+"(?=\s*+:))|(?P<empty>"")|(?P<string>"(?:[^"\\]|\\.)*+"?)'
    r"|(?P<kept>[\[\]{}:,]|\s++|null\b)|(?P<other>[^\s\[\]{}:,\"]++)"
)
_ELLIPSIS: Final = "…"
_LEAST_WIDTH: Final = 40


def excerpt(text: str, place: Place, *, first_line: int = 1, width: int = 100) -> list[str]:
    """Return the line of *text* that *place* is on, numbered, and below it a line with the caret.

    *first_line* is the number of the text's first line in its file. A line longer than *width* is cut to what is
    around the place.
    """
    start = text.rfind("\n", 0, place.start) + 1
    end = text.find("\n", start)
    line = text[start : len(text) if end < 0 else end].rstrip("\r")
    drawn, begin, stop = _drawn(line, place.start - start, max(place.end - start, place.start - start + 1))
    number = str(first_line + place.line - 1)
    drawn, begin, stop = _cut(drawn, begin, stop, max(width - len(number) - 4, _LEAST_WIDTH))
    margin = " " * len(number)
    return [f"{number} | {drawn}", f"{margin} | {' ' * _cells(drawn[:begin])}{'^' * max(_cells(drawn[begin:stop]), 1)}"]


def _drawn(line: str, start: int, end: int) -> tuple[str, int, int]:
    """Return *line* without values, and where in it the part from *start* to *end* is now."""
    drawn, begin, stop = "", None, None
    for token in _TOKEN.finditer(line):
        if begin is None and token.end() > start:
            begin = len(drawn) + (start - token.start() if token.lastgroup == "kept" else 0)
        drawn += _shown(token)
        if stop is None and token.end() >= end:
            stop = len(drawn)
    behind = len(drawn)
    return drawn, behind if begin is None else begin, behind if stop is None else stop


def _shown(token: re.Match[str]) -> str:
    if token.lastgroup == "string":
        return f'"{_ELLIPSIS}"'
    if token.lastgroup == "other":
        return _ELLIPSIS
    return printable(token[0].replace("\t", " "))


def _cut(drawn: str, begin: int, stop: int, width: int) -> tuple[str, int, int]:
    """Return *drawn* cut to *width* around its marked part."""
    if _cells(drawn) <= width:
        return drawn, begin, stop
    first = max(0, min(begin - width // 3, len(drawn) - width + 2))
    last = min(len(drawn), first + width - 2)
    left, right = _ELLIPSIS if first else "", _ELLIPSIS if last < len(drawn) else ""
    moved = len(left) - first
    return f"{left}{drawn[first:last]}{right}", begin + moved, min(stop, last) + moved


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
