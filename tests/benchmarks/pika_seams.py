"""What our framing and codec save against pika's own: `python -m tests.benchmarks.pika_seams`.

Each line is one thing the hot path does per message, done by pika's public code and by ours on the same bytes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pika import frame, spec
from pika.frame import Header, Method

from tests.benchmarks.messages import Kind, places, prepare
from worker.rabbit.fast_path import FramingConnection
from worker.rabbit.frames import encode_ack, encode_publish
from worker.rabbit.properties import decode_properties, encode_properties

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANNEL, _FRAME_MAX = 1, 131_072
_RECEIVED_AT_ONCE = 128 * 1024
_ROUNDS, _SECONDS = 5, 0.15
_PROPERTIES = {
    "message_id": "0123456789abcdef01234567",
    "correlation_id": "00000000-0000-4000-8000-000000000001",
    "content_type": "application/json",
    "app_id": "cim-worker",
    "timestamp": 1_760_000_000,
}
_EXCHANGE, _KEY = "cim.conversations", "live-00000001"


def main() -> None:
    """Print one line per comparison."""
    body = next(prepare(0, 1, [Kind.LIVE], live=places("live", 1), closed=places("closed", 1))).body
    raw = _raw_properties()
    print("| per message of 1 KiB | pika, µs | ours, µs | ratio |")
    print("|---|--:|--:|--:|")
    _line("encode a publish with its properties", lambda: _publish_by_pika(body), lambda: _publish_by_us(body))
    _line("decode the properties", lambda: spec.BasicProperties().decode(raw, 2), lambda: decode_properties(raw))
    _line("encode an ack", lambda: Method(_CHANNEL, spec.Basic.Ack(7, multiple=True)).marshal(), _ack_by_us)
    received = _received(body)
    messages = len(received) // len(_delivery(body))
    _line("read a delivery from 128 KiB received", _reader_of_pika(received), _reader_of_ours(received), messages)


def _line(what: str, by_pika: Callable[[], object], by_us: Callable[[], object], messages: int = 1) -> None:
    theirs, own = _microseconds(by_pika) / messages, _microseconds(by_us) / messages
    print(f"| {what} | {theirs:.2f} | {own:.2f} | {theirs / own:.1f} |")


def _microseconds(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        calls, started = 0, time.process_time()
        while (passed := time.process_time() - started) < _SECONDS / _ROUNDS:
            for _ in range(20):
                call()
            calls += 20
        best = min(best, passed / calls)
    return best * 1e6


def _publish_by_pika(body: bytes) -> list[bytes]:
    properties = spec.BasicProperties(delivery_mode=2, type="THIRD_PARTY_ACTIVITY", **_PROPERTIES)
    method = spec.Basic.Publish(exchange=_EXCHANGE, routing_key=_KEY, mandatory=True)
    return [
        Method(_CHANNEL, method).marshal(),
        Header(_CHANNEL, len(body), properties).marshal(),
        frame.Body(_CHANNEL, body).marshal(),
    ]


def _publish_by_us(body: bytes) -> bytes:
    properties = encode_properties(type_="THIRD_PARTY_ACTIVITY", **_PROPERTIES)  # type: ignore[arg-type]
    return encode_publish(_CHANNEL, _EXCHANGE, _KEY, properties, body, frame_max=_FRAME_MAX)


def _ack_by_us() -> bytes:
    return encode_ack(_CHANNEL, 7, multiple=True)


def _raw_properties() -> bytes:
    return encode_properties(type_="THIRD_PARTY_ACTIVITY", headers={"traceparent": "00-ab-cd-01"}, **_PROPERTIES)  # type: ignore[arg-type]


def _delivery(body: bytes) -> bytes:
    method = spec.Basic.Deliver(consumer_tag="ctag1.0123456789", delivery_tag=1, exchange="", routing_key="cim.ingress")
    properties = spec.BasicProperties(delivery_mode=2, message_id=_PROPERTIES["message_id"])
    frames = Method(_CHANNEL, method), Header(_CHANNEL, len(body), properties), frame.Body(_CHANNEL, body)
    return b"".join(one.marshal() for one in frames)


def _received(body: bytes) -> bytes:
    one = _delivery(body)
    return one * (_RECEIVED_AT_ONCE // len(one))


def _reader_of_pika(received: bytes) -> Callable[[], object]:
    """Read frames as pika's connection does: decode one, cut it off the buffer, decode the next."""

    def read() -> int:
        buffer, frames = received, 0
        while buffer:
            consumed, _ = frame.decode_frame(buffer)
            buffer = buffer[consumed:]
            frames += 1
        return frames

    return read


def _reader_of_ours(received: bytes) -> Callable[[], object]:
    connection: Any = object.__new__(FramingConnection)
    connection._sinks = {_CHANNEL: _Sink()}
    connection._contents = {}
    connection.bytes_received = connection.frames_received = 0
    return lambda: connection._read_frames(received)


class _Sink:
    def on_deliver(self, *_: object) -> None:
        """Take it and do nothing."""


if __name__ == "__main__":
    main()
