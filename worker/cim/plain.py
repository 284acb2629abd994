"""The quick check: whether a message is valid, and so written that nothing but its timestamp has to be normalised.

It reads the bytes once more, into structures made from the models of the contract, and takes half the time of the full
check. It answers yes only where the full check finds no problem and normalising changes nothing; to everything else it
answers no, and the full check judges. So it can be left out at any time, and changes nothing but the time.

Made by msgspec, whose checks of types agree with pydantic's strict ones; `tests/unit/test_plain.py` holds them to that.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

import msgspec
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainValidator, StringConstraints, WrapValidator

from worker.cim.bodies import BODY_MODELS
from worker.cim.canonical import event_id
from worker.cim.ids import MAX_ID_BYTES
from worker.cim.message import CimMessage
from worker.cim.models import AdditionalAttribute, Body, ChannelData, Header, Message, Sender
from worker.cim.timestamps import LAST_MS, SECONDS_BELOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

    from worker.cim.scan import Scanned

_SURELY_SHORT: Final = MAX_ID_BYTES // 4
_UNIONS: Final = (Union, types.UnionType)
_VALIDATORS: Final = (AfterValidator, BeforeValidator, PlainValidator, WrapValidator)


class _OwnValidatorsError(Exception):
    """A model has validators of its own, which msgspec does not know; never leaves this module."""


class _Object(msgspec.Struct):
    """Any object, its members unread."""


_Moment = Annotated[int, msgspec.Meta(ge=1, le=LAST_MS)]
_NARROWER: Final[dict[type[BaseModel], dict[str, Any]]] = {
    Message: {"id": str},
    Sender: {"id": str},
    Header: {"timestamp": _Moment, "channelData": ChannelData},
    ChannelData: {"additionalAttributes": list[AdditionalAttribute]},
    AdditionalAttribute: {"value": str},
}
"""What has to be so, beyond the contract, that nothing is normalised. That no id is blank is looked at for all of them
together: an expression for each costs as much as all the rest."""


def read_plain(body: bytes, scanned: Scanned) -> CimMessage | None:
    """Return the message in *body*, if it is valid, has an id, and goes into the event as it is; else None."""
    try:
        read: Any = _CHECKS.get(scanned.body_type or b"", _OPEN)(body)
    except msgspec.ValidationError:
        return None
    header = read.header
    sender, customer = header.sender, header.customer
    session_id, conversation_id, room_id = header.channelSessionId, header.conversationId, header.roomId
    customer_id = customer.id if customer else None
    if not read.id or not sender.id or not (session_id or conversation_id or customer_id):
        return None
    if _need_a_look((read.id, sender.id, session_id or "", conversation_id or "", customer_id or "", room_id or "")):
        return None
    json, timestamp, gap = body, header.timestamp, scanned.customer_gap
    if timestamp < SECONDS_BELOW:
        if not scanned.timestamp_end:
            return None
        json, timestamp, gap = _in_milliseconds(body, timestamp, scanned.timestamp_end, gap)
    fields = (
        read.id,
        event_id(sender.id, read.id, scanned.content),
        sender.id,
        sender.senderName or None,
        conversation_id or None,
        session_id or None,
        customer_id or None,
        room_id or None,
        read.body.type,
        timestamp,
        len(body),
        scanned.document,
        json,
        scanned.sender,
        header.intent,
        gap,
    )
    return tuple.__new__(CimMessage, fields)


def _need_a_look(ids: tuple[str, ...]) -> bool:
    """Tell whether one of *ids* may be blank, too long, or hold a control character."""
    together = "".join(ids)
    if not together.isprintable():
        return True
    if " " not in together and together.isascii() and len(together) <= MAX_ID_BYTES:
        return False
    return any(len(text) > _SURELY_SHORT or text.isspace() for text in ids)


def _in_milliseconds(
    body: bytes, seconds: int, end: int, gap: tuple[int, int] | None
) -> tuple[bytes, int, tuple[int, int] | None]:
    """Return a message with three zeros more where its timestamp ends, that timestamp, and where *gap* is then."""
    if gap is not None and gap[0] >= end:
        gap = gap[0] + 3, gap[1] + 3
    return b"%b000%b" % (body[:end], body[end:]), seconds * 1000, gap


def _structure(model: type[BaseModel], **instead: Any) -> type[msgspec.Struct]:
    """Return the structure that takes what *model* takes, or less; *instead* replaces the types of fields."""
    decorators = model.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators or decorators.validators:
        raise _OwnValidatorsError
    narrower = {name: _type_of(kind) for name, kind in _NARROWER.get(model, {}).items()} | instead
    fields = [
        (name, narrower[name]) if name in narrower else _field(name, field)
        for name, field in model.model_fields.items()
    ]
    aliases = {name: field.alias for name, field in model.model_fields.items() if field.alias}
    return msgspec.defstruct(model.__name__, sorted(fields, key=len), rename=aliases, gc=False)


def _field(name: str, field: FieldInfo) -> tuple[str, Any] | tuple[str, Any, None]:
    kind = _type_of(field.annotation)
    for mark in field.metadata:
        if isinstance(mark, StringConstraints):
            kind = Annotated[kind, msgspec.Meta(pattern=str(mark.pattern))]
    return (name, kind) if field.is_required() else (name, kind, None)


def _type_of(annotation: Any) -> Any:
    """Return what msgspec is to expect where a model expects *annotation*."""
    origin: Any = get_origin(annotation)
    arguments = get_args(annotation)
    if _has_validator(annotation):
        raise _OwnValidatorsError
    if origin is Annotated:
        kept = [mark for mark in arguments[1:] if isinstance(mark, msgspec.Meta)]
        return Annotated[_type_of(arguments[0]), *kept] if kept else _type_of(arguments[0])
    if origin in _UNIONS:
        # What a member with a validator of its own would take gets the full check.
        return Union[tuple(_type_of(one) for one in arguments if not _has_validator(one))]  # noqa: UP007 - computed
    if origin is list:
        return list[_type_of(arguments[0])]  # type: ignore[misc]
    if origin is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _structure(annotation)
    return {dict: _Object, Any: msgspec.Raw}.get(origin or annotation, annotation)


def _has_validator(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(mark, _VALIDATORS) for mark in get_args(annotation))


def _check(body_model: type[BaseModel]) -> Callable[[bytes], object]:
    """Return what raises `ValidationError` unless a message with this body is plain."""
    try:
        # The type of a known body is looked up, letter for letter: it needs no check.
        of_body = _structure(body_model) if body_model is Body else _structure(body_model, type=str)
        return msgspec.json.Decoder(_structure(Message, body=of_body)).decode
    except _OwnValidatorsError:
        return _leave_to_the_full_check


def _leave_to_the_full_check(_body: bytes) -> None:
    raise msgspec.ValidationError


_OPEN: Final = _check(Body)
_CHECKS: Final = {orjson.dumps(name): _check(model) for name, model in BODY_MODELS.items()}
