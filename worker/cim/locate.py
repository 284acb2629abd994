"""Where in the text of a message a problem is, and what stands there. For people who check a message; no I/O.

What is found is told as a type or a shape ("an object", "a string of 300 bytes"), never as the value.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.cim.decode import DEFAULT_MAX_DEPTH, depth
from worker.cim.ids import has_control_character
from worker.cim.pointer import escape
from worker.codes import Code, WarningCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BYTE_ORDER_MARK: Final = "\ufeff"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_COMMA_AT_THE_END: Final = re.compile(r",[ \t\r\n]*(?=[\]}])")
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_SCALAR: Final = re.compile(r"[^\s,\[\]{}]*")
_INTEGER: Final = re.compile(r"-?\d+")
_DIGIT: Final = re.compile(r"\d")
_LETTER: Final = re.compile(r"[^\W\d_]")
_SHAPE_CHARACTERS: Final = 40
_MISSING: Final = frozenset(code for code in Code if code.value.startswith("missing_"))
_MESSAGE_KEYS: Final = frozenset({"header", "body"})
_ANCHORS: Final = frozenset({"conversationId", "channelSessionId", "customer"})
_BEGINNINGS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "a ZIP archive"}
"""What else a file may be, by its first bytes."""
_ABOUT_THE_KEY: Final = frozenset({Code.DUPLICATE_KEY, WarningCode.MISSPELT_FIELD})
_CHARACTERS: Final = {
    "": "the end of the text",
    "'": "a single quote",
    ",": "a comma",
    ":": "a colon",
    "}": "a closing brace",
    "]": "a closing bracket",
    "{": "an opening brace",
    "[": "an opening bracket",
    '"': "a double quote",
    "/": "a slash; JSON has no comments",
    "\n": "the end of the line",
    "\r": "the end of the line",
    "\t": "a tab",
    "\\": "a backslash",
}


class Place(NamedTuple):
    """A place in the text of a message."""

    start: int
    """Where it begins, in characters of the text, from 0."""
    end: int
    line: int
    """From 1."""
    column: int
    """In characters, from 1."""
    found: str
    """What stands there, as a type or a shape."""


class _Member(NamedTuple):
    """A member of an object, or an item of an array."""

    name: str
    """As in a pointer."""
    key: tuple[int, int] | None
    value: tuple[int, int]


class MessageText:
    """The text of one message, to look for places in."""

    def __init__(self, body: bytes) -> None:
        """Read *body*, whatever bytes it holds; a byte order mark is no part of the text."""
        self._body = body
        self.text: Final = body.decode("utf-8", "replace").removeprefix(_BYTE_ORDER_MARK)

    def place_of(self, code: Code | WarningCode, pointer: str) -> Place:
        """Return where the problem *code* at *pointer* is; of what is missing, where the thing around it is."""
        finder = _OF_THE_BYTES.get(code)
        start, end, found = finder(self.text, self._body) if finder else self._in_document(code, pointer)
        line_start = self.text.rfind("\n", 0, start) + 1
        return Place(start, end, self.text.count("\n", 0, start) + 1, start - line_start + 1, found)

    def _in_document(self, code: Code | WarningCode, pointer: str) -> tuple[int, int, str]:
        member, complete = _resolve(self.text, pointer)
        start, end = member.value
        found = _found(code, self.text[start:end]) if complete else _instead(self.text, member)
        if complete and code is Code.MISSING_ANCHOR:
            found += _outside_header(self.text)
        if member.key is not None and code in _ABOUT_THE_KEY:
            return *member.key, found
        return start, start + 1 if self.text[start : start + 1] in {"{", "["} else end, found


def _instead(text: str, around: _Member) -> str:
    """Return what is found instead of something that *around* lacks: a whole message may be a level too deep."""
    if not around.name:
        for member in _members(text, around.value[0]):
            if {one.name for one in _members(text, member.value[0])} >= _MESSAGE_KEYS:
                return f"nothing; the object at /{member.name} looks like the message"
    return "nothing"


def _outside_header(text: str) -> str:
    """Return where an anchor stands that is not read there, if one does."""
    for around in ("", "/body"):
        member, is_there = _resolve(text, around)
        for one in _members(text, member.value[0]) if is_there else ():
            if one.name in _ANCHORS:
                return f"; {around}/{one.name} is outside the header, where it is not read"
    return ""


def _resolve(text: str, pointer: str) -> tuple[_Member, bool]:
    """Return what *pointer* leads to, or the last thing on the way that is there; and whether it is all of the way."""
    start = _after_space(text, 0)
    member = _Member("", None, (start, _value_end(text, start)))
    for part in pointer.split("/")[1:]:
        # Of a key that stands twice the last one counts, and is the one that is one too many.
        named = [one for one in _members(text, member.value[0]) if one.name == part]
        if not named:
            return member, False
        member = named[-1]
    return member, True


def _members(text: str, start: int) -> Iterator[_Member]:
    """Yield what the object or array that begins at *start* holds, as far as it can be read."""
    opening = text[start : start + 1]
    if opening not in {"{", "["}:
        return
    at, index = _after_space(text, start + 1), 0
    while text[at : at + 1] not in {"", "}", "]"}:
        name, key = str(index), None
        if opening == "{":
            quoted = _STRING.match(text, at)
            if quoted is None:
                return
            name, key = _name(quoted[0]), quoted.span()
            at = _after_space(text, _after_space(text, quoted.end()) + 1)
        end = _value_end(text, at)
        yield _Member(name, key, (at, end))
        at, index = _after_space(text, end), index + 1
        if text[at : at + 1] != ",":
            return
        at = _after_space(text, at + 1)


def _name(quoted: str) -> str:
    try:
        name: str = json.loads(quoted, strict=False)
    except ValueError:
        name = quoted[1:-1]
    return escape(name).encode("utf-8", "replace").decode()


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _value_end(text: str, start: int) -> int:
    first = text[start : start + 1]
    if first == '"':
        quoted = _STRING.match(text, start)
        return quoted.end() if quoted else len(text)
    if first not in {"{", "["}:
        scalar = _SCALAR.match(text, start)
        return scalar.end() if scalar else start
    level = 0
    for token in _STRUCTURE.finditer(text, start):
        level += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if level == 0:
            return token.end()
    return len(text)


def _found(code: Code | WarningCode, value: str) -> str:
    if code is Code.MISSING_ANCHOR:
        return "none of the three"
    if code is Code.DUPLICATE_KEY:
        return "the key again"
    if code is Code.INVALID_UNICODE:
        return "half of a surrogate pair"
    if code is Code.NOT_AN_OBJECT and _holds_json(value):
        return "a string that holds JSON, as after encoding it twice"
    if code in _MISSING and value.startswith(("{", "[")):
        return "nothing" if code is Code.MISSING_FIELD else shape(value)
    return _text_shape(code, value) if value.startswith('"') else shape(value)


def _holds_json(quoted: str) -> bool:
    if not quoted.startswith('"'):
        return False
    try:
        return isinstance(json.loads(json.loads(quoted)), dict | list)
    except (ValueError, TypeError, RecursionError):
        return False


def shape(value: str) -> str:
    """Return what kind of JSON *value* is, such as "an empty array"."""
    first = value[:1]
    if first in {"{", "["}:
        kind = "object" if first == "{" else "array"
        return f"an empty {kind}" if not value[1:-1].strip() else f"an {kind}"
    if first == '"':
        return "an empty string" if value == '""' else "a blank string" if not value[1:-1].strip() else "a string"
    if value in {"null", "true", "false"}:
        return value
    digits = len(value.lstrip("-"))
    return f"an integer of {digits} digits" if _INTEGER.fullmatch(value) and digits > 1 else _number_shape(value)


def _number_shape(value: str) -> str:
    if _INTEGER.fullmatch(value):
        return "an integer"
    return "a number" if value[:1].isdigit() or value[:1] == "-" else "something that is no JSON value"


def _text_shape(code: Code | WarningCode, quoted: str) -> str:
    try:
        text: str = json.loads(quoted, strict=False)
    except ValueError:
        return "a string"
    if code is Code.ID_TOO_LONG:
        return f"a string of {len(text.encode('utf-8', 'replace'))} bytes"
    if code is Code.INVALID_ID:
        return f"a string with U+{ord(next(filter(has_control_character, text), ' ')):04X}"
    if code in {Code.INVALID_TIMESTAMP, WarningCode.IMPLAUSIBLE_TIME} and 0 < len(text) <= _SHAPE_CHARACTERS:
        return f"a string of the form {_LETTER.sub('a', _DIGIT.sub('9', text))}"
    return shape(quoted)


def _malformed(text: str, _body: bytes) -> tuple[int, int, str]:
    at = 0
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        comma = _COMMA_AT_THE_END.match(text, error.pos)  # Python 3.13 points at it, older ones at what follows
        at = comma.end() if comma else error.pos
    except RecursionError:
        return 0, 1, "objects and arrays nested very deep"
    if not text[at:].strip():
        at = len(text.rstrip())
    character = text[at : at + 1] if text[at:].strip() else ""
    otherwise = "a letter" if character.isalpha() else "a digit" if character.isdigit() else "another character"
    return at, at + 1, _CHARACTERS.get(character, otherwise)


def _not_utf8(text: str, body: bytes) -> tuple[int, int, str]:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        at = len(body[: error.start].decode().removeprefix(_BYTE_ORDER_MARK))
        kind = next((f", as {name} begins" for first, name in _BEGINNINGS.items() if body.startswith(first)), "")
        return at, at + 1, f"the byte 0x{body[error.start]:02X}{kind}"
    return 0, len(text[:1]), "UTF-8"


def _too_large(text: str, body: bytes) -> tuple[int, int, str]:
    return 0, len(text[:1]), f"{len(body)} bytes"


def _too_deep(text: str, body: bytes) -> tuple[int, int, str]:
    deepest, level, at = depth(body), 0, 0
    for token in _STRUCTURE.finditer(text):
        level += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if level > min(deepest - 1, DEFAULT_MAX_DEPTH):
            at = token.start()
            break
    return at, at + 1, f"{deepest} levels"


_OF_THE_BYTES: dict[Any, Callable[[str, bytes], tuple[int, int, str]]] = {
    Code.MALFORMED_JSON: _malformed,
    Code.INVALID_UTF8: _not_utf8,
    Code.MESSAGE_TOO_LARGE: _too_large,
    Code.NESTING_TOO_DEEP: _too_deep,
}
