"""Bytes to a JSON object, strictly: one accepted reading of a body, or the reasons why there is none.

Paths that agree, each run when the one before did not say yes: `compact` for bodies as most serialisers write them,
the standard library's parser with our hooks for any other JSON, the same with numbers kept as they are spelled, and
`flaws.py`, which finds out what is wrong and where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from json import JSONDecodeError, JSONDecoder
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson

from worker.cim.canonical import write_canonical
from worker.cim.encoding import too_large
from worker.cim.flaws import INT64_DIGITS, INT64_MAX, INT64_MIN, find_flaws
from worker.codes import Code, Problem

DEFAULT_MAX_BYTES = 1_048_576
DEFAULT_MAX_DEPTH = 64
DEEPEST = 200
"""No limit on depth goes beyond this: what is deeper cannot be written as an event (the serialiser stops at 254)."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_DIGITS_AS_ZERO = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))
_BYTE_ORDER_MARK = "\ufeff"
_MAY_EXCEED_INT64 = b"0" * INT64_DIGITS


_JSON_EXPECTS: Final = {
    "Expecting value": "a value",
    "Expecting property name": "a name in double quotes",
    "Illegal trailing comma": "no comma after the last one",
    "Expecting ',' delimiter": "a comma, or the end of the object or array",
    "Expecting ':' delimiter": "a colon",
    "Extra data": "nothing after the end",
    "Unterminated string": "a string that ends with a double quote",
    "Invalid control character": "no line end, tab or other control character within a string",
    "Invalid \\u": "four hexadecimal digits",
    "Invalid \\escape": "one of the escapes that JSON has",
}
"""What is expected where the standard library's parser finds something else, by how its words for that begin."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A body that is not an acceptable JSON object."""

    problems: tuple[Problem, ...]
    """In document order, at least one."""
    remains: dict[str, Any] | None = None
    """What could be read nevertheless, for naming the sender of a dead letter; flawed values are null."""


class Decoded(NamedTuple):
    """A JSON object, as it was sent."""

    document: dict[str, Any]
    canonical: bytes | None = None
    """The canonical content, where it is known already, or where writing `document` would spell a number otherwise."""

    def content(self) -> bytes:
        """Return the canonical content. Call it before the document is changed."""
        return self.canonical or write_canonical(self.document)


class _SuspicionError(Exception):
    """Breaks off a fast path; never leaves this module."""


class _SpellingError(Exception):
    """Breaks off a fast path at a number that the serialiser would spell otherwise; never leaves this module."""


def decode(
    body: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_depth: int = DEFAULT_MAX_DEPTH
) -> Decoded | Undecodable:
    """Return the JSON object in `body`, or why it cannot be taken. Raises nothing, whatever the bytes.

    `max_bytes` limits the body, `max_depth` how deep objects and arrays may be nested (the outermost counts as one;
    never more than `DEEPEST`).
    """
    max_depth = min(max_depth, DEEPEST)
    if len(body) > max_bytes:
        return Undecodable((too_large(max_bytes),))
    too_deep = is_too_deep(body, max_depth)
    if not too_deep and (document := compact(body)) is not None:
        return Decoded(document)
    try:
        text = body.decode().removeprefix(_BYTE_ORDER_MARK)
        return _too_deep(max_depth) if too_deep else _decode_text(text, body)
    except UnicodeDecodeError:
        return _undecodable(Code.INVALID_UTF8)
    except JSONDecodeError as error:
        return _undecodable(Code.MALFORMED_JSON, _expected_instead(error))
    except RecursionError:
        return _too_deep(max_depth)


def with_id(body: bytes, new_id: str) -> bytes:
    """Return the *body* of a valid message, with *new_id* if it has no id; its numbers stay as they are spelled."""
    document = _SPELLED_DECODER.decode(body.decode().removeprefix(_BYTE_ORDER_MARK))
    if (document.get("id") or "").strip():
        return body
    return orjson.dumps({**document, "id": new_id})


def is_too_deep(body: bytes, max_depth: int) -> bool:
    """Tell whether objects and arrays are nested more than `max_depth` levels deep in `body`."""
    return body.count(b"{") + body.count(b"[") > max_depth and depth(body) > max_depth


def compact(body: bytes) -> dict[str, Any] | None:
    """Return the object in `body` if writing it again gives the same bytes, or None: another path has to look.

    A faster parser than the standard library's keeps silent about names that stand twice and numbers it changes; but
    then not every byte of the body comes back. What does come back unchanged is compact JSON, in proper UTF-8, of which
    nothing was lost.
    """
    first_colon = body.find(b'":')
    if not body.startswith(b"{") or body[first_colon + 2 : first_colon + 3] == b" ":
        return None  # somebody puts blanks between tokens, or it is no object: not worth the try
    if _MAY_EXCEED_INT64 in body.translate(_DIGITS_AS_ZERO):
        return None
    try:
        document = orjson.loads(body)
        return document if orjson.dumps(document) == body else None
    except ValueError:
        return None


def depth(body: bytes) -> int:
    """Return how deep objects and arrays are nested in `body`, brackets inside strings not counted."""
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _decode_text(text: str, body: bytes) -> Decoded | Undecodable:
    try:
        document = _DECODER.decode(text)
    except _SpellingError:
        return _decode_spelled(text)
    except _SuspicionError:
        return _flawed(text)
    if b"\\u" in body and _SURROGATE_ESCAPE.search(body) and not _is_unicode(document):
        return _flawed(text)
    return Decoded(document) if type(document) is dict else _undecodable(Code.NOT_AN_OBJECT)


def _decode_spelled(text: str) -> Decoded | Undecodable:
    """Decode what has numbers such as 1.50 or 1E3, which come back as 1.5 and 1000.0 when they are written."""
    try:
        spelled = _SPELLED_DECODER.decode(text)
        if type(spelled) is not dict:
            return _undecodable(Code.NOT_AN_OBJECT)
        return Decoded(orjson.loads(orjson.dumps(spelled)), write_canonical(spelled))
    except (_SuspicionError, orjson.JSONEncodeError):  # the latter: half a surrogate pair
        return _flawed(text)


def _flawed(text: str) -> Undecodable:
    remains, problems = find_flaws(text)
    if isinstance(remains, dict):
        return Undecodable(tuple(problems), remains)
    return Undecodable((Problem(Code.NOT_AN_OBJECT, "", Code.NOT_AN_OBJECT.spec.meaning), *problems))


def _undecodable(code: Code, expected: str | None = None) -> Undecodable:
    return Undecodable((Problem(code, "", expected or code.spec.meaning),))


def _expected_instead(error: JSONDecodeError) -> str:
    """Return what JSON has where *error* is. Its own words say what is wrong, and other ones in each version."""
    what = next((sentence for words, sentence in _JSON_EXPECTS.items() if error.msg.startswith(words)), "JSON")
    return f"JSON; at line {error.lineno}, column {error.colno}: {what}."


def _too_deep(max_depth: int) -> Undecodable:
    return _undecodable(Code.NESTING_TOO_DEEP, f"Objects and arrays nested at most {max_depth} levels deep.")


def _is_unicode(document: object) -> bool:
    # The serialiser refuses half surrogate pairs; it is the quickest exact check there is.
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _SuspicionError
    return members


def _int64(digits: str) -> int:
    # Short ones first; int() refuses thousands of digits with an error of its own, so length comes before value.
    if len(digits) < INT64_DIGITS:
        return int(digits) or _zero(digits)
    if len(digits) > INT64_DIGITS + 1 or not INT64_MIN <= int(digits) <= INT64_MAX:
        raise _SuspicionError
    return int(digits)


def _zero(digits: str) -> int:
    if digits != "0":
        raise _SpellingError
    return 0


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise _SuspicionError
    if orjson.dumps(number) != digits.encode():
        raise _SpellingError
    return number


def _spelled_int64(digits: str) -> orjson.Fragment:
    if len(digits) > INT64_DIGITS + 1 or not INT64_MIN <= int(digits) <= INT64_MAX:
        raise _SuspicionError
    return orjson.Fragment(digits)


def _spelled_finite(digits: str) -> orjson.Fragment:
    if not isfinite(float(digits)):
        raise _SuspicionError
    return orjson.Fragment(digits)


def _constant(_name: str) -> None:
    raise _SuspicionError


_DECODER = JSONDecoder(object_pairs_hook=_unique, parse_int=_int64, parse_float=_finite, parse_constant=_constant)
_SPELLED_DECODER = JSONDecoder(
    object_pairs_hook=_unique, parse_int=_spelled_int64, parse_float=_spelled_finite, parse_constant=_constant
)
