"""AMQP bytes, held against pika's own encoder and decoder."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pika
import pika.data
import pika.frame
import pika.spec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.rabbit import frames as frames_
from worker.rabbit import properties as properties_

if TYPE_CHECKING:
    from worker.ports import Properties

FRAME_MAX = 4096
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
int64 = st.integers(-(2**63), 2**63 - 1)
own_headers = st.dictionaries(texts, texts | int64, max_size=6)
optional_text = st.none() | texts
own_properties = st.fixed_dictionaries(
    {
        "message_id": optional_text,
        "correlation_id": optional_text,
        "headers": own_headers,
        "content_type": optional_text,
        "content_encoding": optional_text,
        "timestamp": st.none() | st.integers(0, 2**64 - 1),
        "type_": optional_text,
        "app_id": optional_text,
        "user_id": optional_text,
    }
)


def table(*entries: tuple[str, bytes]) -> bytes:
    """Return the bytes of a header table with raw values."""
    content = b"".join(bytes((len(key),)) + key.encode() + value for key, value in entries)
    return struct.pack(">I", len(content)) + content


def with_headers(raw_table: bytes) -> Properties:
    return properties_.decode_properties(struct.pack(">H", 1 << 13) + raw_table)


def headers_of(*entries: tuple[str, bytes]) -> dict[str, Any]:
    properties = with_headers(table(*entries))
    assert not properties.damaged
    return properties.headers


@given(texts, texts, st.integers(0, 2**64 - 1), texts, texts, texts, optional_text)
def test_a_template_writes_what_is_written_without_it(
    message_id: str,
    correlation_id: str,
    timestamp: int,
    content_type: str,
    type_: str,
    app_id: str,
    user_id: str | None,
) -> None:
    shared: dict[str, Any] = {"content_type": content_type, "type_": type_, "app_id": app_id, "user_id": user_id}
    written = properties_.PropertiesTemplate(**shared).write(message_id, correlation_id, timestamp)
    whole = {"message_id": message_id, "correlation_id": correlation_id, "timestamp": timestamp, **shared}
    assert written == properties_.encode_properties(**whole)


@given(own_properties)
def test_what_we_encode_pika_and_we_decode_to_the_same_values(properties: dict[str, Any]) -> None:
    raw = properties_.encode_properties(**properties)
    by_pika = pika.spec.BasicProperties().decode(raw, 0)
    ours = properties_.decode_properties(raw)
    assert not ours.damaged
    assert ours.delivery_mode == by_pika.delivery_mode == 2
    assert ours.headers == (by_pika.headers or {}) == properties["headers"]
    for name in ("message_id", "correlation_id", "content_type", "content_encoding", "app_id", "user_id"):
        assert getattr(ours, name) == getattr(by_pika, name) == properties[name]
    assert ours.type == by_pika.type == properties["type_"]
    assert ours.timestamp == by_pika.timestamp == properties["timestamp"]


@given(
    st.dictionaries(
        texts,
        st.recursive(
            texts | int64 | st.booleans() | st.none() | st.binary(max_size=9).map(bytearray).map(bytes),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
def test_what_pika_encodes_we_decode_as_pika_does(headers: dict[str, Any]) -> None:
    raw = b"".join(pika.spec.BasicProperties(headers=headers, priority=3, reply_to="r", expiration="7").encode())
    ours = properties_.decode_properties(raw)
    assert ours.headers == pika.spec.BasicProperties().decode(raw, 0).headers
    assert (ours.priority, ours.reply_to, ours.expiration, ours.damaged) == (3, "r", "7", False)


@given(own_properties, texts, texts, st.binary(max_size=3 * FRAME_MAX))
@example({}, "", "", b"")
@example({}, "x", "k", b"b" * (FRAME_MAX - 8))
@example({}, "x", "k", b"b" * (FRAME_MAX - 7))
@example({}, "x", "k", b"b" * (2 * (FRAME_MAX - 8)))
def test_publish_frames_mean_what_pikas_frames_mean(
    properties: dict[str, Any], exchange: str, routing_key: str, body: bytes
) -> None:
    raw = frames_.encode_publish(
        7, exchange, routing_key, properties_.encode_properties(**properties), body, frame_max=FRAME_MAX
    )
    frames = []
    while raw:
        size, frame = pika.frame.decode_frame(raw)
        assert size <= FRAME_MAX
        frames.append(frame)
        raw = raw[size:]
    method, header, *bodies = frames
    assert {frame.channel_number for frame in frames} == {7}
    assert (method.method.exchange, method.method.routing_key) == (exchange, routing_key)
    assert method.method.mandatory
    assert not method.method.immediate
    assert header.body_size == len(body)
    assert header.properties.message_id == properties.get("message_id")
    assert b"".join(frame.fragment for frame in bodies) == body
    assert len(bodies) == -(-len(body) // (FRAME_MAX - 8))


@pytest.mark.parametrize("multiple", [False, True])
def test_an_ack_is_pikas_ack(multiple: bool) -> None:  # noqa: FBT001 - a parameter
    expected = pika.frame.Method(3, pika.spec.Basic.Ack(2**40, multiple)).marshal()
    assert frames_.encode_ack(3, 2**40, multiple=multiple) == expected


def test_giving_back_is_one_requeueing_nack_per_delivery_or_a_reject_when_the_work_failed() -> None:
    nacks = b"".join(pika.frame.Method(3, pika.spec.Basic.Nack(tag, False, True)).marshal() for tag in (5, 9))  # noqa: FBT003 - pika's order
    rejects = b"".join(pika.frame.Method(3, pika.spec.Basic.Reject(tag, True)).marshal() for tag in (5, 9))  # noqa: FBT003 - likewise
    assert frames_.encode_requeue(3, [5, 9], failed=False) == nacks
    assert frames_.encode_requeue(3, [5, 9], failed=True) == rejects


def test_a_cancel_that_wants_no_reply_is_pikas() -> None:
    expected = pika.frame.Method(3, pika.spec.Basic.Cancel("cim-1a", nowait=True)).marshal()
    assert frames_.encode_cancel(3, "cim-1a") == expected


FIELDS: list[tuple[bytes, Any]] = [
    (b"t\x01", True),
    (b"t\x00", False),
    (b"b\xff", -1),
    (b"B\xff", 255),
    (b"s\xff\xfe", -2),
    (b"U\xff\xfe", -2),
    (b"u\xff\xfe", 65534),
    (b"I\xff\xff\xff\xff", -1),
    (b"i\xff\xff\xff\xff", 2**32 - 1),
    (b"l" + b"\xff" * 8, -1),
    (b"L" + b"\xff" * 8, -1),
    (b"f" + struct.pack(">f", 1.5), 1.5),
    (b"d" + struct.pack(">d", 0.1), 0.1),
    (b"D\x02" + struct.pack(">i", -1234), Decimal("-12.34")),
    (b"T" + struct.pack(">Q", 1_760_000_000), 1_760_000_000),
    (b"T" + struct.pack(">Q", 1_760_000_000_123), 1_760_000_000_123),
    (b"T" + b"\xff" * 8, 2**64 - 1),
    (b"S\x00\x00\x00\x02hi", "hi"),
    (b"S\x00\x00\x00\x02\xff\xfe", b"\xff\xfe"),
    (b"x\x00\x00\x00\x02\xff\xfe", b"\xff\xfe"),
    (b"V", None),
    (b"A\x00\x00\x00\x03t\x01V", [True, None]),
    (b"F" + table(("inner", b"b\x07")), {"inner": 7}),
]


@pytest.mark.parametrize(("raw", "value"), FIELDS, ids=[f"{raw[:1].decode()} {value!r:.20}" for raw, value in FIELDS])
def test_every_field_type_of_the_specification_is_read(raw: bytes, value: object) -> None:
    assert headers_of(("before", b"t\x01"), ("it", raw), ("after", b"V")) == {
        "before": True,
        "it": value,
        "after": None,
    }


def test_pika_still_ends_the_connection_over_a_header_timestamp_in_milliseconds() -> None:
    """When this fails, pika can read such a header and this decoder has one reason less to exist."""
    raw = struct.pack(">H", 1 << 13) + table(("at", b"T" + struct.pack(">Q", 1_760_000_000_123_000)))
    with pytest.raises(Exception, match=r"year|range|out of"):
        pika.spec.BasicProperties().decode(raw, 0)
    assert properties_.decode_properties(raw).headers == {"at": 1_760_000_000_123_000}


def test_a_value_of_unknown_kind_costs_only_what_comes_after_it() -> None:
    properties = properties_.decode_properties(
        struct.pack(">H", (1 << 13) | (1 << 7))
        + table(("good", b"t\x01"), ("bad", b"?whatever"), ("lost", b"V"))
        + b"\x02id"
    )
    assert properties.damaged
    assert properties.headers == {"good": True}
    assert properties.message_id == "id"


def test_an_entry_that_runs_past_its_table_or_array_is_damage() -> None:
    assert with_headers(table(("a", b"S\x00\x00\x00\xffshort"))).damaged
    assert with_headers(table(("a", b"A\x00\x00\x00\x02S\x00\x00\x00\x04text"))).damaged
    assert with_headers(table(("a", b"F\x00\x00\x00\x03\x01b" + b"l" + b"\0" * 8))).damaged


def test_bottomless_nesting_is_damage_and_not_a_crash() -> None:
    raw = b"V"
    for _ in range(9000):
        raw = b"A" + struct.pack(">I", len(raw)) + raw
    assert with_headers(table(("deep", raw))).damaged


def test_text_that_is_not_utf_8_is_replaced_and_not_refused() -> None:
    properties = properties_.decode_properties(struct.pack(">H", 1 << 7) + b"\x02\xff\xfe")
    assert properties.message_id == "\ufffd\ufffd"


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_raise(raw: bytes) -> None:
    properties_.decode_properties(raw)


@given(st.binary(max_size=120))
def test_no_header_table_makes_the_decoder_raise(raw: bytes) -> None:
    with_headers(struct.pack(">I", len(raw)) + raw)


FULL = properties_.encode_properties(
    message_id="m", correlation_id="c", headers={"a": "text", "b": 7}, timestamp=5, type_="t", app_id="app", user_id="u"
)


@pytest.mark.parametrize("length", range(len(FULL)))
def test_properties_cut_short_anywhere_are_damaged(length: int) -> None:
    assert properties_.decode_properties(FULL[:length]).damaged


def test_whole_properties_are_not_damaged() -> None:
    assert not properties_.decode_properties(FULL).damaged


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_a_long_text_is_cut_at_a_character_and_the_cut_is_known_beforehand(text: str) -> None:
    read = properties_.decode_properties(properties_.encode_properties(message_id=text)).message_id
    assert read == properties_.cut(text)
    assert text.startswith(read)
    assert len(text.encode()) <= 255 or len(read.encode()) > 251


@pytest.mark.parametrize("names", [("e" * 256, "k"), ("e", "k" * 256)])
def test_a_name_that_routing_depends_on_is_refused_and_never_cut(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        frames_.encode_publish(1, *names, properties_.encode_properties(), b"", frame_max=FRAME_MAX)
