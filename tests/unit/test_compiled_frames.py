"""Where framing is compiled it says what the Python form says, and leaves to that what it does not do.

Where it was not built, the Python form is compared with itself.
"""

from __future__ import annotations

import itertools
from typing import Any

import pika.frame
import pika.spec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import amqp
from worker import compiled
from worker.rabbit.fast_path import FramingConnection
from worker.rabbit.frames import encode_publish
from worker.rabbit.properties import decode_properties, decode_purely, encode_properties, encode_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["é" * 127, "é" * 128, "x" * 255]
)
OPTIONAL = st.none() | TEXTS
ENDS_FRAME = 0xCE


class Sink:
    """Keeps what it is given."""

    def __init__(self, heard: list[Any], channel: int) -> None:
        self._heard, self._channel = heard, channel

    def on_deliver(self, *facts: Any) -> None:
        self._heard.append(("deliver", self._channel, *facts))

    def on_return(self, *facts: Any) -> None:
        self._heard.append(("return", self._channel, *facts))

    def on_confirm(self, *facts: Any) -> None:
        self._heard.append(("confirm", self._channel, *facts))

    def on_read(self) -> None:
        """Nothing to wake."""


def frames_of(channel: int, method: Any, body: bytes, properties: Any, split: int) -> bytes:
    bodies = [body[start : start + split] for start in range(0, len(body), split)]
    parts = [
        pika.frame.Method(channel, method),
        pika.frame.Header(channel, len(body), properties),
        *(pika.frame.Body(channel, piece) for piece in bodies),
    ]
    return b"".join(part.marshal() for part in parts)


PROPERTIES = st.builds(
    lambda message_id, headers: pika.spec.BasicProperties(message_id=message_id, headers=headers, delivery_mode=2),
    st.none() | st.text("abc", max_size=5),
    st.none() | st.dictionaries(st.text("abc", max_size=3), st.integers(0, 5), max_size=2),
)
DELIVERIES = st.builds(
    lambda channel, tag, redelivered, exchange, key, body, properties, split: frames_of(
        channel, pika.spec.Basic.Deliver("ctag", tag, redelivered, exchange, key), body, properties, split
    ),
    *(st.integers(1, 3), st.integers(1, 2**40), st.booleans(), st.text("e.é", max_size=8), st.text("k", max_size=8)),
    *(st.binary(max_size=40), PROPERTIES, st.sampled_from([7, 1000])),
)
RETURNS = st.builds(
    lambda channel, body, properties: frames_of(
        channel, pika.spec.Basic.Return(312, "NO_ROUTE", "e", "k"), body, properties, 1000
    ),
    *(st.integers(1, 3), st.binary(max_size=20), PROPERTIES),
)
CONFIRMS = st.builds(
    lambda channel, tag, multiple, kind: pika.frame.Method(channel, kind(tag, multiple)).marshal(),
    *(st.integers(1, 3), st.integers(1, 2**40), st.booleans()),
    st.sampled_from([pika.spec.Basic.Ack, pika.spec.Basic.Nack]),
)
OTHERS = st.sampled_from(
    [pika.frame.Heartbeat().marshal(), pika.frame.Method(1, pika.spec.Basic.CancelOk("ctag")).marshal(), b"\x01\x00"]
)
STREAMS = st.lists(st.one_of(DELIVERIES, DELIVERIES, RETURNS, CONFIRMS, OTHERS), max_size=8).map(b"".join)


def heard_of(stream: bytes, cuts: list[int]) -> list[Any]:
    """Return what sinks and pika are given, when the stream comes in pieces."""
    heard: list[Any] = []
    connection: Any = object.__new__(FramingConnection)
    connection._sinks = {channel: Sink(heard, channel) for channel in (1, 2)}  # the third is pika's
    connection._contents, connection._frame_buffer = {}, b""
    connection.bytes_received = connection.frames_received = 0
    connection._give_to_pika = lambda frame: heard.append(("pika", frame))
    connection._terminate_stream = lambda error: heard.append(("ended", str(error)))
    connection.connection_state = connection.CONNECTION_OPEN
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for start, end in itertools.pairwise(places):
        connection._on_data_available(stream[start:end])
        if heard and heard[-1][0] == "ended":
            break
    return [*heard, connection.bytes_received, connection.frames_received]


@given(STREAMS, st.lists(st.integers(0, 5000), max_size=3))
@settings(max_examples=600, deadline=None)
def test_a_stream_in_pieces_reaches_the_same_sinks(stream: bytes, cuts: list[int]) -> None:
    said = heard_of(stream, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "frames", None)
        assert said == heard_of(stream, cuts)


def test_a_frame_with_a_wrong_end_ends_the_stream() -> None:
    stream = bytearray(pika.frame.Method(1, pika.spec.Basic.Ack(1)).marshal())
    assert stream[-1] == ENDS_FRAME
    stream[-1] = 0
    assert heard_of(bytes(stream), [])[0][0] == "ended"


@given(amqp.property_bytes())
@settings(max_examples=800, deadline=None)
def test_properties_are_read_alike(raw: bytes) -> None:
    assert repr(decode_properties(raw)) == repr(decode_purely(raw))  # a number that is none equals nothing, not itself


@given(
    st.fixed_dictionaries(
        dict.fromkeys(("correlation_id", "content_type", "content_encoding", "type_", "app_id", "user_id"), OPTIONAL)
        | {"message_id": TEXTS, "timestamp": st.none() | st.integers(0, 2**64 - 1)}
    ),
    *(
        st.dictionaries(TEXTS, TEXTS | st.integers(-(2**63), 2**63 - 1), max_size=3),
        TEXTS,
        TEXTS,
        st.binary(max_size=300),
    ),
)
@settings(max_examples=500, deadline=None)
def test_a_publish_is_written_alike(
    properties: dict[str, Any], headers: dict[str, str | int], exchange: str, routing_key: str, body: bytes
) -> None:
    if compiled.frames is None:
        return
    table = encode_table(headers) if headers else None
    written = compiled.frames.publish(3, exchange, routing_key, body, 4096, table=table, **properties)
    if written is None:
        longest = max(
            len(text.encode()) for text in (*properties.values(), exchange, routing_key) if isinstance(text, str)
        )
        assert longest > 255 or len(encode_properties(headers=headers, **properties)) + 20 > 4096
    else:
        raw = encode_properties(headers=headers, **properties)
        assert written == encode_publish(3, exchange, routing_key, raw, body, frame_max=4096)


def test_half_a_surrogate_pair_is_left_to_the_python_form() -> None:
    if compiled.frames is not None:
        facts: dict[str, Any] = dict.fromkeys(
            ("content_type", "content_encoding", "correlation_id", "type_", "user_id")
        )
        assert (
            compiled.frames.publish(
                1, "e", "k", b"", 4096, table=None, message_id="\ud800", timestamp=None, app_id=None, **facts
            )
            is None
        )
