"""What is probably a mistake in a message, though it can be taken: never a reason to reject it. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from json import JSONDecoder
from typing import TYPE_CHECKING, Any, Final

from worker.cim.bodies import BODY_MODELS
from worker.cim.decode import Undecodable, decode
from worker.cim.models import Body, ChannelData, Customer, Header, Message, Sender
from worker.cim.pointer import pointer
from worker.cim.problems import text_at
from worker.cim.timestamps import to_epoch_ms
from worker.codes import WarningCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

_Path = tuple[str | int, ...]

MAX_WARNINGS: Final = 20
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z in epoch milliseconds: no activity of this platform is older."""
LATEST_AHEAD_MS: Final = 24 * 3600 * 1000
_CLOSE: Final = 0.88
_EXACT_INTEGER: Final = 2**53
_SEPARATORS = re.compile(r"[^0-9a-z]")


@dataclass(frozen=True, slots=True)
class CimWarning:
    """One thing that is probably not meant. Holds no part of the payload but names of fields."""

    code: WarningCode
    pointer: str
    """JSON pointer (RFC 6901) to the field."""
    expected: str
    """What was probably meant, in one sentence."""


def find_warnings(body: bytes, *, received_at: int, max_bytes: int) -> list[CimWarning]:
    """Return what is probably a mistake in *body*, at most `MAX_WARNINGS`; nothing where it cannot be read.

    *received_at* (epoch ms) is the time that times are compared with.
    """
    decoded = decode(body, max_bytes=max_bytes)
    document = decoded.remains if isinstance(decoded, Undecodable) else decoded.document
    if document is None:
        return []
    found = [*_misspelt_fields(document), *_misspelt_body_type(document), *_implausible_time(document, received_at)]
    if not isinstance(decoded, Undecodable):
        found += islice(_inexact_numbers(_SPELLED.decode(body.decode().removeprefix("\ufeff"))), MAX_WARNINGS)
    return found[:MAX_WARNINGS]


def _misspelt_fields(document: dict[str, Any]) -> Iterator[CimWarning]:
    body_type = text_at(document, ("body", "type"))
    places: tuple[tuple[_Path, type[BaseModel]], ...] = (
        ((), Message),
        (("header",), Header),
        (("header", "sender"), Sender),
        (("header", "channelData"), ChannelData),
        (("header", "customer"), Customer),
        (("body",), BODY_MODELS.get(body_type or "", Body)),
    )
    for path, model in places:
        members = _object_at(document, path)
        known = {_plain(name): name for name in _wire_names(model)}
        for name in members:
            meant = known.get(_plain(name))
            if meant is not None and meant not in members:
                expected = f"{meant}: a field of another name is not read."
                yield CimWarning(WarningCode.MISSPELT_FIELD, pointer((*path, name)), expected)


def _misspelt_body_type(document: dict[str, Any]) -> Iterator[CimWarning]:
    body_type = text_at(document, ("body", "type"))
    if body_type is None or body_type in BODY_MODELS:
        return
    plain = {_plain(name): name for name in BODY_MODELS}
    (close, *_) = get_close_matches(_plain(body_type), plain, n=1, cutoff=_CLOSE) or (None,)
    if close is not None:
        expected = f"{plain[close]}, probably; any other type is open and its fields are not checked."
        yield CimWarning(WarningCode.MISSPELT_BODY_TYPE, "/body/type", expected)


def _implausible_time(document: dict[str, Any], received_at: int) -> Iterator[CimWarning]:
    moment = to_epoch_ms(_object_at(document, ("header",)).get("timestamp"))
    if moment is not None and not EARLIEST_MS <= moment <= received_at + LATEST_AHEAD_MS:
        expected = "The time at which it happened: after the year 1999, and not in the future."
        yield CimWarning(WarningCode.IMPLAUSIBLE_TIME, "/header/timestamp", expected)


def _inexact_numbers(value: Any, path: _Path = ()) -> Iterator[CimWarning]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _inexact_numbers(member, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _inexact_numbers(item, (*path, index))
    elif isinstance(value, _Inexact):
        expected = "A number that a double can hold, or a string: readers get the nearest double."
        yield CimWarning(WarningCode.INEXACT_NUMBER, pointer(path), expected)


class _Inexact:
    """Stands where a number is that readers get changed."""


def _integer(digits: str) -> _Inexact | None:
    number = int(digits)
    return _Inexact() if abs(number) > _EXACT_INTEGER and int(float(number)) != number else None


def _fraction(digits: str) -> _Inexact | None:
    return None if Decimal(digits) == Decimal(repr(float(digits))) else _Inexact()


_SPELLED = JSONDecoder(parse_int=_integer, parse_float=_fraction)


def _object_at(document: dict[str, Any], path: _Path) -> dict[str, Any]:
    value: Any = document
    for part in path:
        value = value.get(part)
        if not isinstance(value, dict):
            return {}
    return value if isinstance(value, dict) else {}


def _wire_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
