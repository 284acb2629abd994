"""The slow path of decoding: reads JSON that a strict reader refuses, and says what is wrong where.

Finds keys named twice, numbers that are not finite, integers beyond 64 bits and half surrogate pairs.
"""

from __future__ import annotations

from json import JSONDecoder
from math import isfinite
from typing import Any

from worker.cim.pointer import pointer
from worker.codes import Code, Problem

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
INT64_DIGITS = 19
"""Decimal digits of the largest 64-bit integer: anything shorter fits."""

MAX_FLAWS = 20
"""How many flaws are listed; a hostile body can hold hundreds of thousands."""

_Path = tuple[str | int, ...]


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object as written, repetitions included."""


class _Flaw:
    """Stands where a number was that cannot be taken."""

    __slots__ = ("code",)

    def __init__(self, code: Code) -> None:
        self.code = code


def find_flaws(text: str) -> tuple[Any, list[Problem]]:
    """Return what `text` says and its first `MAX_FLAWS` flaws; flawed values are null, later members win.

    Problems come in document order. Raises `json.JSONDecodeError` when `text` is not JSON at all.
    """
    problems: list[Problem] = []
    return _mend(_DECODER.decode(text), (), problems), problems


def _mend(value: Any, path: _Path, problems: list[Problem]) -> Any:
    if isinstance(value, _Members):
        return _mend_object(value, path, problems)
    if isinstance(value, list):
        return [_mend(item, (*path, index), problems) for index, item in enumerate(value)]
    if isinstance(value, _Flaw):
        _report(value.code, path, problems)
        return None
    if isinstance(value, str) and not _is_text(value):
        _report(Code.INVALID_UNICODE, path, problems)
        return None
    return value


def _mend_object(members: _Members, path: _Path, problems: list[Problem]) -> dict[str, Any]:
    mended: dict[str, Any] = {}
    for key, value in members:
        if key in mended:
            _report(Code.DUPLICATE_KEY, (*path, key), problems)
        member = _mend(value, (*path, key), problems)
        if _is_text(key):
            mended[key] = member
        else:
            _report(Code.INVALID_UNICODE, (*path, key), problems)
    return mended


def _report(code: Code, path: _Path, problems: list[Problem]) -> None:
    if len(problems) < MAX_FLAWS:
        problems.append(Problem(code, pointer(path), code.spec.meaning))


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(digits: str) -> int | _Flaw:
    # int() refuses thousands of digits, so length comes before value.
    if len(digits) > INT64_DIGITS + 1 or not INT64_MIN <= int(digits) <= INT64_MAX:
        return _Flaw(Code.INTEGER_OUT_OF_RANGE)
    return int(digits)


def _number(digits: str) -> float | _Flaw:
    number = float(digits)
    return number if isfinite(number) else _Flaw(Code.NUMBER_NOT_FINITE)


def _constant(_name: str) -> _Flaw:
    return _Flaw(Code.NUMBER_NOT_FINITE)


_DECODER = JSONDecoder(object_pairs_hook=_Members, parse_int=_integer, parse_float=_number, parse_constant=_constant)
