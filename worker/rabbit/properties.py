"""AMQP message properties and header tables, from bytes and to bytes.

pika's decoder raises on a header timestamp in milliseconds (pika issue 1698), which ends the connection permanently.
This one never raises: what it cannot read it leaves out and says so. Source of the layout: the AMQP 0-9-1
specification and RabbitMQ's errata for field types.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from worker import compiled
from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_SHORT_STRING = 255
OCTETS = tuple(bytes((number,)) for number in range(256))

_SHORT, _OCTET, _LONGLONG, _TABLE = "short", "octet", "longlong", "table"
# In the order of the specification, highest flag bit first.
_FIELDS: tuple[tuple[int, str, str], ...] = (
    (1 << 15, "content_type", _SHORT),
    (1 << 14, "content_encoding", _SHORT),
    (1 << 13, "headers", _TABLE),
    (1 << 12, "delivery_mode", _OCTET),
    (1 << 11, "priority", _OCTET),
    (1 << 10, "correlation_id", _SHORT),
    (1 << 9, "reply_to", _SHORT),
    (1 << 8, "expiration", _SHORT),
    (1 << 7, "message_id", _SHORT),
    (1 << 6, "timestamp", _LONGLONG),
    (1 << 5, "type", _SHORT),
    (1 << 4, "user_id", _SHORT),
    (1 << 3, "app_id", _SHORT),
)


def decode_properties(raw: bytes) -> Properties:
    """Read the property part of a content header frame (flags first). Never raises."""
    if compiled.frames is not None:
        properties = Properties()
        if compiled.frames.read_properties(raw, properties):
            return properties
    return decode_purely(raw)


def decode_purely(raw: bytes) -> Properties:
    """As `decode_properties`, in Python alone: reads what is damaged or unusual as well."""
    properties = Properties()
    try:
        _read_fields(raw, properties)
    except Exception:  # noqa: BLE001 - hostile bytes must not end the connection; the loss is recorded
        properties.damaged = True
    return properties


def _read_fields(raw: bytes, properties: Properties) -> None:
    offset = 2
    for name, kind in _fields_of((raw[0] << 8) | raw[1]):
        if kind is _SHORT:
            end = offset + 1 + raw[offset]
            value: Any = raw[offset + 1 : end].decode("utf-8", "replace")
            offset = end
        elif kind is _OCTET:
            value, offset = raw[offset], offset + 1
        elif kind is _LONGLONG:
            value, offset = int.from_bytes(raw[offset : offset + 8], "big"), offset + 8
        else:
            end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "big")
            properties.damaged |= not _read_table(raw, offset + 4, end, properties.headers)
            offset = end
            continue
        setattr(properties, name, value)
    properties.damaged |= offset > len(raw)


@lru_cache(maxsize=256)
def _fields_of(flags: int) -> tuple[tuple[str, str], ...]:
    """Return name and kind of the fields that *flags* announce; senders keep to a few combinations."""
    return tuple((name, kind) for bit, name, kind in _FIELDS if flags & bit)


def _read_table(raw: bytes, offset: int, end: int, into: dict[str, Any]) -> bool:
    """Read entries up to *end* into *into*; return False if reading stopped early or an entry ran past the end."""
    try:
        while offset < end:
            key_end = offset + 1 + raw[offset]
            key = raw[offset + 1 : key_end].decode("utf-8", "replace")
            into[key], offset = _read_value(raw, key_end)
    except Exception:  # noqa: BLE001 - a value of unknown kind has no known length: the rest of the table is unreadable
        return False
    return offset == end <= len(raw)


def _number(layout: str) -> Callable[[bytes, int], tuple[Any, int]]:
    reader = struct.Struct(layout)
    return lambda raw, offset: (reader.unpack_from(raw, offset)[0], offset + reader.size)


def _read_long_string(raw: bytes, offset: int) -> tuple[str | bytes, int]:
    end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "big")
    value = raw[offset + 4 : end]
    try:
        return value.decode(), end
    except UnicodeDecodeError:
        return value, end


def _read_bytes(raw: bytes, offset: int) -> tuple[bytes, int]:
    end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "big")
    return raw[offset + 4 : end], end


def _read_array(raw: bytes, offset: int) -> tuple[list[Any], int]:
    end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "big")
    offset += 4
    values = []
    while offset < end:
        value, offset = _read_value(raw, offset)
        values.append(value)
    if offset != end:
        msg = "an entry runs past its array"
        raise ValueError(msg)
    return values, end


def _read_nested(raw: bytes, offset: int) -> tuple[dict[str, Any], int]:
    end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "big")
    table: dict[str, Any] = {}
    if not _read_table(raw, offset + 4, end, table):
        msg = "unreadable table"
        raise ValueError(msg)
    return table, end


def _read_decimal(raw: bytes, offset: int) -> tuple[Decimal, int]:
    scale, number = struct.unpack_from(">Bi", raw, offset)
    return Decimal(number).scaleb(-scale), offset + 5


_READERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    ord("t"): lambda raw, offset: (raw[offset] != 0, offset + 1),
    ord("b"): _number(">b"),
    ord("B"): _number(">B"),
    ord("s"): _number(">h"),
    ord("U"): _number(">h"),
    ord("u"): _number(">H"),
    ord("I"): _number(">i"),
    ord("i"): _number(">I"),
    ord("l"): _number(">q"),
    ord("L"): _number(">q"),
    ord("f"): _number(">f"),
    ord("d"): _number(">d"),
    ord("T"): _number(">Q"),
    ord("D"): _read_decimal,
    ord("S"): _read_long_string,
    ord("x"): _read_bytes,
    ord("A"): _read_array,
    ord("F"): _read_nested,
    ord("V"): lambda _, offset: (None, offset),
}


def _read_value(raw: bytes, offset: int) -> tuple[Any, int]:
    return _READERS[raw[offset]](raw, offset + 1)


def encode_properties(
    *,
    message_id: str | None = None,
    correlation_id: str | None = None,
    headers: Mapping[str, str | int] | None = None,
    content_type: str | None = "application/json",
    content_encoding: str | None = None,
    timestamp: int | None = None,
    type_: str | None = None,
    app_id: str | None = None,
    user_id: str | None = None,
    reply_to: str | None = None,
) -> bytes:
    """Write persistent (delivery mode 2) properties, flags first.

    Strings longer than a short string holds (255 bytes) are cut at a character boundary.
    Header values are strings and 64-bit integers only.
    """
    flags = 1 << 12
    parts = [b""]
    if content_type is not None:
        flags |= 1 << 15
        parts.append(_constant(content_type))
    if content_encoding is not None:
        flags |= 1 << 14
        parts.append(_short(content_encoding))
    if headers:
        flags |= 1 << 13
        parts.append(encode_table(headers))
    parts.append(b"\x02")
    for bit, text in ((1 << 10, correlation_id), (1 << 9, reply_to), (1 << 7, message_id)):
        if text is not None:
            flags |= bit
            parts.append(_short(text))
    if timestamp is not None:
        flags |= 1 << 6
        parts.append(timestamp.to_bytes(8, "big"))
    for bit, text in ((1 << 5, type_), (1 << 4, user_id), (1 << 3, app_id)):
        if text is not None:
            flags |= bit
            parts.append(_short(text))
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


class PropertiesTemplate:
    """Writes properties that differ in their ids and timestamp only: what they share is encoded once."""

    def __init__(self, *, content_type: str, type_: str, app_id: str, user_id: str | None) -> None:
        """All that is written is as `encode_properties` writes it."""
        whole = encode_properties(
            content_type=content_type,
            correlation_id="",
            message_id="",
            timestamp=0,
            type_=type_,
            app_id=app_id,
            user_id=user_id,
        )
        ids = 2 + len(_short(content_type)) + 1  # behind the flags, the content type and the delivery mode
        self._head, self._tail = whole[:ids], whole[ids + 2 + 8 :]

    def write(self, message_id: str, correlation_id: str, timestamp: int) -> bytes:
        """Return the properties of one message; *timestamp* is epoch seconds."""
        return b"".join(
            (self._head, _short(correlation_id), _short(message_id), timestamp.to_bytes(8, "big"), self._tail)
        )


def encode_table(headers: Mapping[str, str | int]) -> bytes:
    """Write a header table of strings and integers, its length first."""
    entries = []
    for key, value in headers.items():
        entries.append(_constant(key))
        if isinstance(value, int):
            entries.append(b"l" + value.to_bytes(8, "big", signed=True))
        else:
            text = value.encode("utf-8", "replace")
            entries.append(b"S" + len(text).to_bytes(4, "big") + text)
    table = b"".join(entries)
    return len(table).to_bytes(4, "big") + table


def _short(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > MAX_SHORT_STRING:
        raw = cut(text).encode()
    return OCTETS[len(raw)] + raw


def cut(text: str) -> str:
    """Return *text* as a short string brings it over: at most 255 bytes, cut at a character boundary."""
    if len(text) * 4 <= MAX_SHORT_STRING:
        return text
    return text.encode("utf-8", "replace")[:MAX_SHORT_STRING].decode("utf-8", "ignore")


_constant = lru_cache(maxsize=256)(_short)
"""As `_short`, for the few dozen names, types and applications that stand in every message."""
