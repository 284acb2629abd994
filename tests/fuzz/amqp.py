"""AMQP properties as strangers send them: every field type, faked headers of ours and the broker's, deep nesting.

Properties are described by literals, `(name, value)` for each field and `(key, (kind, value))` for each header, where
kind is the type letter of AMQP; `encode` writes them with code of its own, so that the decoder is not its own judge.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.shapes import among, damaged_bytes, weighted
from worker import contract

Field = tuple[str, Any]
Value = tuple[str, Any]

_LAYOUTS = {
    "t": "B",
    "b": "b",
    "B": "B",
    "s": "h",
    "u": "H",
    "I": "i",
    "i": "I",
    "l": "q",
    "T": "Q",
    "f": "f",
    "d": "d",
}
_FLAGS = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
}
_OCTETS = {"delivery_mode", "priority"}
_KEYS = (
    *contract.LETTER_HEADERS,
    *(contract.USER_ID, contract.TRACEPARENT, contract.TRACESTATE, "CC", "BCC"),
    *("x-death", "x-first-death-reason", "x-last-death-reason", "x-last-death-queue", "x-delivery-count", ""),
)
_TEXTS = among(("", "1", "dead", "cim.ingress", "rejected", "[]", '[{"code":1}]', "[" * 300, "é" * 127, "a\x00b"))


def _integers(layout: str) -> st.SearchStrategy[int]:
    bits = struct.calcsize(">" + layout) * 8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.islower() else (0, 2**bits - 1)
    return st.sampled_from((low, high, 0, 1)) | st.integers(low, high)


_LEAVES: st.SearchStrategy[Value] = st.one_of(
    st.tuples(st.just("S"), _TEXTS.map(str.encode) | st.binary(max_size=20)),
    among((("S", b"x" * 100_000), ("S", b"\xff" * 900), ("T", 1_760_000_000_123), ("V", None), ("x", b"\x00"))),
    st.one_of(*(st.tuples(st.just(kind), _integers(_LAYOUTS[kind])) for kind in "bBsuIilT")),
    st.tuples(st.just("t"), st.integers(0, 255)),
    st.tuples(st.sampled_from("fd"), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just("D"), st.tuples(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1))),
)


def _table(values: st.SearchStrategy[Value], size: int) -> st.SearchStrategy[tuple[tuple[str, Value], ...]]:
    keys = st.sampled_from(("reason", "queue", "time", "exchange", "routing-keys", "count")) | st.text(max_size=8)
    return st.lists(st.tuples(keys, values), max_size=size).map(tuple)


_VALUES: st.SearchStrategy[Value] = st.recursive(
    _LEAVES,
    lambda inner: (
        st.tuples(st.just("A"), st.lists(inner, max_size=3).map(tuple)) | st.tuples(st.just("F"), _table(inner, 3))
    ),
    max_leaves=5,
)


def nested(depth: int, kind: str = "F") -> Value:
    """Return a table or array nested *depth* deep."""
    value: Value = ("V", None)
    for _ in range(depth):
        value = ("F", (("n", value),)) if kind == "F" else ("A", (value,))
    return value


_DEEP = st.builds(nested, st.sampled_from((50, 100, 300)), st.sampled_from("FA"))
_SOME_HEADERS = st.lists(
    st.tuples(st.sampled_from(_KEYS) | st.text(max_size=10), weighted((9, _VALUES), (1, _DEEP))), max_size=8
).map(tuple)


def _text(value: str) -> Value:
    return ("S", value.encode())


_TIMES: st.SearchStrategy[Value] = st.tuples(st.just("l"), _integers("q")) | st.tuples(
    st.sampled_from("lT"), st.sampled_from((1_760_000_000, 1_760_000_000_123, 0))
)
_PRETENDED_COPY = st.tuples(
    st.tuples(st.just(contract.FAILED_AT), _TIMES),
    st.tuples(st.just(contract.ORIGIN_QUEUE), st.just(_text("cim.ingress"))),
)
_LETTER = st.tuples(
    st.tuples(st.just(contract.CODE), st.sampled_from((_text("missing_body"), _text("from the future")))),
    st.tuples(st.just(contract.WORKER_VERSION), st.just(_text("1"))),
    st.tuples(st.just(contract.FAILED_AT), _TIMES),
)
_DEATH = st.builds(
    lambda reason, time, others: (("x-death", ("A", (("F", (("reason", reason), ("time", time), *others)),))),),
    st.sampled_from(("rejected", "expired", "maxlen", "delivery_limit", "")).map(_text) | _VALUES,
    _TIMES,
    _table(_VALUES, 3),
)
_NO_HEADERS: tuple[()] = ()
_HEADERS = st.builds(
    lambda known, some: (*known, *some),
    weighted((4, st.just(_NO_HEADERS)), (1, _PRETENDED_COPY), (1, _LETTER), (1, _DEATH)),
    _SOME_HEADERS,
)
_SHORTS = among((b"", b"id", b"x" * 255, b"\xff" * 255, "é".encode() * 127)) | st.binary(max_size=20)


def _field(name: str) -> st.SearchStrategy[Any]:
    if name == "headers":
        return _HEADERS
    if name in _OCTETS:
        return st.integers(0, 255)
    return _integers("Q") if name == "timestamp" else _SHORTS


def properties() -> st.SearchStrategy[tuple[Field, ...]]:
    """Well-formed properties with whatever in them; headers in three of four."""
    others = st.lists(st.sampled_from(sorted(_FLAGS)), max_size=5, unique=True)
    names = st.builds(lambda some, headers: {*some, "headers"} if headers else {*some}, others, st.integers(0, 3))
    return names.flatmap(
        lambda chosen: st.tuples(*(st.tuples(st.just(name), _field(name)) for name in _FLAGS if name in chosen))
    )


def property_bytes() -> st.SearchStrategy[bytes]:
    """The same as bytes, well-formed or damaged, and bytes that never were properties."""
    damage = st.lists(
        st.tuples(
            st.sampled_from(("insert", "cut", "overwrite", "truncate")),
            st.integers(0, 600),
            st.binary(min_size=1, max_size=4) | st.sampled_from((b"\xff\xff\xff\xff", b"\x00", b"F", b"A", b"T")),
        ),
        max_size=3,
    )
    return st.builds(damaged_bytes, properties().map(encode), damage) | st.binary(max_size=80)


def encode(fields: tuple[Field, ...]) -> bytes:
    """Write properties, flags first."""
    flags = 0
    parts = b""
    for name, value in fields:
        flags |= 1 << _FLAGS[name]
        if name == "headers":
            parts += _long(b"".join(_short(key.encode()) + _tagged(item) for key, item in value))
        elif name in _OCTETS:
            parts += bytes((value,))
        elif name == "timestamp":
            parts += struct.pack(">Q", value)
        else:
            parts += _short(value)
    return struct.pack(">H", flags) + parts


def plain(value: Value) -> Any:
    """Return what a reader should make of an encoded value."""
    kind, content = value
    if kind == "A":
        return [plain(item) for item in content]
    if kind == "F":
        return {key: plain(item) for key, item in content}
    if kind == "S":
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content
    if kind == "D":
        return Decimal(content[1]).scaleb(-content[0])
    return bool(content) if kind == "t" else content


def _tagged(value: Value) -> bytes:
    kind, content = value
    tag = kind.encode()
    if kind == "A":
        return tag + _long(b"".join(map(_tagged, content)))
    if kind == "F":
        return tag + _long(b"".join(_short(key.encode()) + _tagged(item) for key, item in content))
    if kind in "Sx":
        return tag + _long(content)
    if kind == "D":
        return tag + struct.pack(">Bi", *content)
    return tag if kind == "V" else tag + struct.pack(">" + _LAYOUTS[kind], content)


def _long(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _short(content: bytes) -> bytes:
    return bytes((len(content),)) + content
