"""Where framing is compiled it says what the Python form says, and leaves to that what it does not do.

Where it was not built, the Python form is compared with itself. What only the compiled form has is in `tests/compiled`.
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
from worker.rabbit.properties import decode_properties, decode_purely

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
