"""A message as lines of text, with the places marked that are at fault. No I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.cim.warnings import find_warnings
from worker.codes import WarningCode
from worker.desk.masking import masked
from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.cim.warnings import CimWarning
    from worker.dead_letters.letter import LetterRecord

_MOST_LINES: Final = 1500
_MOST_TEXT: Final = 64 * 1024
_LONGEST_LINE: Final = 2000
_KEYS_SHOWN: Final = 8
_LARGEST: Final = 16 * 1024 * 1024


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


class Problem(NamedTuple):
    """What is wrong at one place."""

    where: str
    code: str
    expected: str
    found: str


class Hint(NamedTuple):
    """What was probably meant."""

    where: str
    pointer: str
    text: str
    rename: str
    """The rename that would mend it, nothing if it is another kind of mistake."""


def payload(body: bytes, pointers: Sequence[str], hinted: Sequence[str] = (), *, reveal: bool) -> Payload:
    """Return *body* as lines, those at *pointers* and *hinted* (JSON pointers) marked; masked unless *reveal*."""
    try:
        document = json.loads(body)
        shown = document if reveal else masked(document)
        marked = {**dict.fromkeys(hinted, "hint"), **{_nearest(document, one): "fault" for one in pointers}}
        lines = []
        for line in _lines(shown, "", "", marked):
            lines.append(line)
            if len(lines) >= _MOST_LINES:
                return Payload(lines, is_cut=True, is_masked=not reveal)
    except (ValueError, RecursionError):
        return _text(body, reveal=reveal)
    return Payload(lines, is_cut=False, is_masked=not reveal)


def problems(letter: LetterRecord, body: bytes) -> list[Problem]:
    """Return everything a letter died of, with what stands at each place; values are never shown, only their kind."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    known = [(one.pointer, one.code, one.expected) for one in letter.problems]
    known = known or [(letter.pointer, letter.code, letter.detail)]
    return [Problem(_dotted(pointer), code, expected, _found(document, pointer)) for pointer, code, expected in known]


def hints(body: bytes, *, now: int) -> list[Hint]:
    """Return what was probably meant otherwise in a message; *now* in epoch ms."""
    found = find_warnings(body, received_at=now, max_bytes=_LARGEST)
    return [Hint(_dotted(one.pointer), one.pointer, one.expected, _rename(one)) for one in found]


def _rename(warning: CimWarning) -> str:
    if warning.code is not WarningCode.MISSPELT_FIELD or warning.did_you_mean is None:
        return ""
    *around, last = _parts(warning.pointer)
    return "=".join(".".join([*around, name]) for name in (last, warning.did_you_mean))


def _text(body: bytes, *, reveal: bool) -> Payload:
    if not reveal:
        return Payload([Line(f"{len(body)} bytes that are no JSON", "fault")], is_cut=False, is_masked=True)
    text = body[:_MOST_TEXT].decode("utf-8", "replace")
    lines = [_line(line) for line in text.splitlines()[:_MOST_LINES]]
    return Payload(lines, is_cut=len(body) > _MOST_TEXT or len(lines) >= _MOST_LINES, is_masked=False)


def _lines(
    value: Any, pointer: str, before: str, marked: Mapping[str, str], indent: int = 0, after: str = ""
) -> Iterator[Line]:
    margin = "  " * indent
    mark = marked.get(pointer, "")
    if not isinstance(value, dict | list) or not value:
        written = json.dumps(value, ensure_ascii=False)
        yield _line(f"{margin}{before}{written}{after}", mark)
        return
    is_object = isinstance(value, dict)
    yield _line(f"{margin}{before}{'{' if is_object else '['}", mark)
    members = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for number, (key, member) in enumerate(members, 1):
        name = f"{json.dumps(key, ensure_ascii=False)}: " if is_object else ""
        comma = "," if number < len(members) else ""
        yield from _lines(member, f"{pointer}/{_escaped(str(key))}", name, marked, indent + 1, comma)
    yield _line(f"{margin}{'}' if is_object else ']'}{after}")


def _line(text: str, mark: str = "") -> Line:
    text = printable(text)
    return Line(text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + " …", mark)


def _nearest(document: object, pointer: str) -> str:
    """Return *pointer*, or where it leaves the document: what is missing is marked where it should be."""
    parts, reached, value = _parts(pointer), "", document
    for part in parts:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            break
        reached += f"/{_escaped(part)}"
    return reached


def _found(document: object, pointer: str) -> str:
    if document is None:
        return "bytes that are no JSON"
    value, missing, parent = _walk(document, pointer)
    if not missing:
        return _kind(value)
    if isinstance(parent, dict):
        beside = ", ".join(printable(str(key)) for key in list(parent)[:_KEYS_SHOWN])
        return f"nothing; beside it: {beside}" if beside else "nothing; the object around it is empty"
    return "nothing"


def _walk(document: object, pointer: str) -> tuple[object, bool, object]:
    """Return what is at *pointer*, whether it is missing, and the last that is there on the way."""
    value = document
    for part in _parts(pointer):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None, True, value
    return value, False, value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return f"a text of {len(value)} characters" if value.strip() else "a blank text"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    keys = ", ".join(printable(str(key)) for key in list(value)[:_KEYS_SHOWN]) if isinstance(value, dict) else ""
    return f"an object with {keys}" if keys else "an empty object"


def _dotted(pointer: str) -> str:
    return printable(".".join(_parts(pointer))) or "the whole message"


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
