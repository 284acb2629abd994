"""What is probably a mistake in a message, though it can be taken: never a reason to reject it. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import islice
from json import JSONDecoder
from typing import TYPE_CHECKING, Any, Final, get_args

from worker.cim.bodies import BODY_MODELS
from worker.cim.decode import Undecodable, decode
from worker.cim.models import Body, CimModel, Customer, Message
from worker.cim.pointer import pointer
from worker.cim.problems import NAME_IDS, PLACE_IDS, text_at
from worker.cim.spelling import is_slip_of
from worker.cim.timestamps import SECONDS_BELOW, to_epoch_ms
from worker.codes import WarningCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_Path = tuple[str | int, ...]

MAX_WARNINGS: Final = 20
EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z in epoch milliseconds: no activity of this platform is older."""
LATEST_AHEAD_MS: Final = 24 * 3600 * 1000
LOGGED_IDS: Final[tuple[_Path, ...]] = (*NAME_IDS, ("header", "conversationId"))
"""The fields of a message that the workers write to their logs and into the headers of a dead letter."""
_TIMES: Final = frozenset({"timestamp", "startTime", "endTime", "receivingDate"})
"""Fields of bodies that hold a time; as a number it is milliseconds, as a string whatever its source makes of it."""
_TYPES: Final[tuple[_Path, ...]] = (("header", "sender", "type"), ("body", "type"))
_CLOSE: Final = 0.88
_EXACT_INTEGER: Final = 2**53
_ITEMS_LOOKED_AT: Final = 20
_SEPARATORS = re.compile(r"[^0-9a-z]")
_EMAIL = re.compile(r"(?:mailto:)?[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(?:tel:)?(?:\+|00)\d[\d ()./-]{6,18}\d")
_PLACEHOLDER = re.compile(
    r"(?i:undefined|null|none|nil|nan|n/a|string|\[object \w+\])|\{\{.*\}\}|[$#]?\{[\w. ]*\}|%[sd]",
    re.DOTALL,
)
"""What stands where a variable was never set, or a template never filled."""
_OPAQUE = re.compile(r"[0-9a-fA-F-]{12,}@")
"""How the id of a SIP call begins, which looks like an e-mail address otherwise."""


@dataclass(frozen=True, slots=True)
class CimWarning:
    """One thing that is probably not meant. Holds no part of the payload but names of fields."""

    code: WarningCode
    pointer: str
    """JSON pointer (RFC 6901) to the field."""
    expected: str
    """What was probably meant, in one sentence."""
    did_you_mean: str | None = None
    """The known name or value that comes closest."""


def find_warnings(body: bytes, *, received_at: int, max_bytes: int) -> list[CimWarning]:
    """Return what is probably a mistake in *body*, at most `MAX_WARNINGS`; nothing where it cannot be read.

    *received_at* (epoch ms) is the time that times are compared with.
    """
    decoded = decode(body, max_bytes=max_bytes)
    document = decoded.remains if isinstance(decoded, Undecodable) else decoded.document
    if document is None:
        return []
    found = list(islice(_of_document(document, received_at), MAX_WARNINGS))
    if not isinstance(decoded, Undecodable):
        found += islice(_inexact_numbers(_SPELLED.decode(body.decode().removeprefix("\ufeff"))), MAX_WARNINGS)
    return found[:MAX_WARNINGS]


def _of_document(document: dict[str, Any], received_at: int) -> Iterator[CimWarning]:
    for path, members, model in _modelled(document):
        yield from _misspelt_fields(path, members, model)
    yield from _misspelt_body_type(document)
    yield from _lower_case_types(document)
    yield from _doubtful_time(document, received_at)
    for path, members, model in _modelled(document):
        if path[:1] == ("body",):
            yield from _seconds(path, members, model, received_at)
    yield from _doubtful_ids(document)


def _modelled(document: dict[str, Any]) -> Iterator[tuple[_Path, dict[str, Any], type[CimModel]]]:
    """Yield every object of *document* that has a model: its path, its members and the model."""
    yield from _inside((), document, Message)
    body = document.get("body")
    if isinstance(body, dict):
        yield from _inside(("body",), body, BODY_MODELS.get(text_at(body, ("type",)) or "", Body))


def _inside(path: _Path, value: Any, model: type[CimModel]) -> Iterator[tuple[_Path, dict[str, Any], type[CimModel]]]:
    if isinstance(value, list):
        for index, item in enumerate(value[:_ITEMS_LOOKED_AT]):
            yield from _inside((*path, index), item, model)
    if not isinstance(value, dict):
        return
    yield path, value, model
    for name, inner in _inner_models(model).items():
        if path or name != "body":
            yield from _inside((*path, name), value.get(name), inner)


@cache
def _inner_models(model: type[CimModel]) -> dict[str, type[CimModel]]:
    """Return the fields that hold models, each with its model."""
    found = {field.alias or name: _model_in(field.annotation) for name, field in model.model_fields.items()}
    return {name: inner for name, inner in found.items() if inner is not None}


def _model_in(annotation: Any) -> type[CimModel] | None:
    """Return the model that a field holds, alone or in an array, if it holds one."""
    if isinstance(annotation, type) and issubclass(annotation, CimModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)


def _misspelt_fields(path: _Path, members: dict[str, Any], model: type[CimModel]) -> Iterator[CimWarning]:
    if members.keys() <= _wire_names(model).keys():
        return
    known = {_plain(name): name for name in _wire_names(model)}
    # A customer is a free profile: there a name that is only close is somebody's own.
    nearly = {} if issubclass(model, Customer) else known
    for name in members:
        plain = _plain(name)
        meant = known.get(plain) or next((real for key, real in nearly.items() if is_slip_of(plain, key)), None)
        if meant is not None and meant not in members and name not in known.values():
            expected = f"Did you mean {meant}? A field of another name is not read."
            yield CimWarning(WarningCode.MISSPELT_FIELD, pointer((*path, name)), expected, meant)


def _misspelt_body_type(document: dict[str, Any]) -> Iterator[CimWarning]:
    meant = _known_type_like(text_at(document, ("body", "type")))
    if meant is not None:
        expected = f"Did you mean {meant}? Any other type is open, and its fields are not checked."
        yield CimWarning(WarningCode.MISSPELT_BODY_TYPE, "/body/type", expected, meant)


@lru_cache(maxsize=1000)
def _known_type_like(body_type: str | None) -> str | None:
    if body_type is None or body_type in BODY_MODELS:
        return None
    plain = {_plain(name): name for name in BODY_MODELS}
    (close, *_) = get_close_matches(_plain(body_type), plain, n=1, cutoff=_CLOSE) or (None,)
    return plain[close] if close is not None else None


def _lower_case_types(document: dict[str, Any]) -> Iterator[CimWarning]:
    for path in _TYPES:
        value = text_at(document, path)
        if value is None or not value.islower() or (path[0] == "body" and _known_type_like(value) is not None):
            continue
        meant = value.upper() if value.upper() in _SENDER_TYPES else None
        expected = f"Did you mean {meant or 'the same in capital letters'}? Types are compared letter by letter."
        yield CimWarning(WarningCode.LOWER_CASE_TYPE, pointer(path), expected, meant)


_SENDER_TYPES: Final = frozenset({"AGENT", "APP", "BOT", "CONNECTOR", "CUSTOMER", "IVR", "SYSTEM"})


def _doubtful_time(document: dict[str, Any], received_at: int) -> Iterator[CimWarning]:
    header = document.get("header")
    value = header.get("timestamp") if isinstance(header, dict) else None
    moment = to_epoch_ms(value)
    if moment is None:
        return
    if not EARLIEST_MS <= moment <= received_at + LATEST_AHEAD_MS:
        expected = "The time at which it happened: after the year 1999, and not in the future."
        yield CimWarning(WarningCode.IMPLAUSIBLE_TIME, "/header/timestamp", expected)
    elif _is_seconds(value):
        expected = "Milliseconds: a number this small is taken for seconds, and the event carries it times 1000."
        yield CimWarning(WarningCode.TIME_IN_SECONDS, "/header/timestamp", expected)


def _seconds(path: _Path, members: dict[str, Any], model: type[CimModel], received_at: int) -> Iterator[CimWarning]:
    for name in _wire_names(model).keys() & _TIMES & members.keys():
        value = members.get(name)
        moment = to_epoch_ms(value) if not isinstance(value, str) and _is_seconds(value) else None
        if moment is not None and EARLIEST_MS <= moment <= received_at + LATEST_AHEAD_MS:
            expected = "Milliseconds, as everywhere in CIM: in a body nobody converts it, and it reads as 1970."
            yield CimWarning(WarningCode.TIME_IN_SECONDS, pointer((*path, name)), expected)


def _is_seconds(value: object) -> bool:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return len(value) < len(str(SECONDS_BELOW))
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < SECONDS_BELOW


def _doubtful_ids(document: dict[str, Any]) -> Iterator[CimWarning]:
    for path in (*NAME_IDS, *PLACE_IDS):
        value = text_at(document, path)
        if value is not None and value != value.strip():
            expected = "No blanks around an id: with them it is another id."
            yield CimWarning(WarningCode.BLANKS_AROUND_ID, pointer(path), expected)
        if value is not None and _PLACEHOLDER.fullmatch(value.strip()):
            expected = "An id: this stands where a variable was never set; leave the field out where there is none."
            yield CimWarning(WarningCode.PLACEHOLDER_ID, pointer(path), expected)
    for path in LOGGED_IDS:
        kind = _personal_data_in(text_at(document, path) or "")
        if kind is not None:
            expected = f"An id that says nothing about a person: this looks like {kind}, and ids are written to logs."
            yield CimWarning(WarningCode.PERSONAL_DATA, pointer(path), expected)


def _personal_data_in(value: str) -> str | None:
    text = value.strip()
    if _EMAIL.fullmatch(text) and not _OPAQUE.match(text):
        return "an e-mail address"
    return "a phone number" if _PHONE.fullmatch(text) else None


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


@cache
def _wire_names(model: type[CimModel]) -> dict[str, None]:
    """Return the names of the fields as they are on the wire, in order."""
    return dict.fromkeys(field.alias or name for name, field in model.model_fields.items())


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
