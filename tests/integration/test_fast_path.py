"""The seam into pika: these tests fail when pika changes under it."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

import pika.adapters.asyncio_connection
import pika.connection
import pika.heartbeat
import pytest

from tests.support.amqp import connected, fill, taken
from tests.support.eventually import eventually_async
from worker.ports import Confirmation, Outgoing
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from tests.services.broker import LocalBroker
    from worker.rabbit.connection import Connection
    from worker.rabbit.fast_path import FramingConnection

FRAME = 131_072
PIECE = FRAME - 8
SIZES = (0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 1 << 20)


def body(size: int, seed: int = 0) -> bytes:
    return bytes((seed + number) % 251 for number in range(min(size, 251))) * (size // 251 + 1)


def bodies() -> list[bytes]:
    # A frame's end marker inside a body must not confuse anybody.
    return [body(size, seed)[:size] for seed, size in enumerate(SIZES)] + [b"\xce" * 1000]


def split_reads(connection: Connection, size: int) -> None:
    """Let everything the connection receives arrive in pieces of at most *size* bytes."""
    raw: Any = connection.raw
    whole = raw._on_data_available

    def in_pieces(data: bytes) -> None:
        for start in range(0, len(data), size):
            whole(data[start : start + size])

    raw._on_data_available = in_pieces


@pytest.mark.parametrize("piece", [None, 1, 7, 4096])
async def test_deliveries_of_every_size_arrive_byte_for_byte_however_reads_are_split(
    vhost_url: str, piece: int | None
) -> None:
    sent = [one for one in bodies() if piece != 1 or len(one) <= PIECE + 1]
    fill(vhost_url, "q", *sent, message_id="an id", headers={"key": "value"})
    async with connected(vhost_url) as connection:
        if piece:
            split_reads(connection, piece)
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(100)
        received = await taken(consumer, len(sent))
        assert [one.body for one in received] == sent
        assert [one.tag for one in received] == list(range(1, len(sent) + 1))
        for one in received:
            assert (one.exchange, one.routing_key, one.queue, one.redelivered) == ("", "q", "q", False)
            assert (one.properties.message_id, one.properties.headers) == ("an id", {"key": "value"})


async def test_interleaved_channels_keep_their_own_contents_and_pikas_own_channels_still_work(vhost_url: str) -> None:
    async with connected(vhost_url) as connection:
        consumers, by_pika = [], []
        for name in ("a", "b", "c"):
            fill(vhost_url, name, arguments={"x-queue-type": "classic"})
            consumers.append(await Consumer.open(connection, name, time.monotonic))
            await consumers[-1].start(1000)
        fill(vhost_url, "pikas", arguments={"x-queue-type": "classic"})
        channel = await connection.channel()
        await channel.call("basic_consume", "pikas", lambda *delivery: by_pika.append(delivery[-1]), auto_ack=True)
        publisher = await Publisher.open(connection)
        outgoing = [
            Outgoing("", queue, f"{queue}-{number}", f"{queue}-{number}".encode() * (1 if number % 9 else 30_000))
            for number in range(60)
            for queue in ("a", "b", "c", "pikas", "nowhere")
        ]
        confirmations = await publisher.publish(outgoing)
        for one, receipt in zip(outgoing, confirmations, strict=True):
            assert receipt is (Confirmation.RETURNED if one.routing_key == "nowhere" else Confirmation.CONFIRMED)
        for name, consumer in zip(("a", "b", "c"), consumers, strict=True):
            received = await taken(consumer, 60)
            assert [one.body for one in received] == [one.body for one in outgoing if one.routing_key == name]
        await eventually_async(lambda: len(by_pika) == 60)
        assert by_pika == [one.body for one in outgoing if one.routing_key == "pikas"]


async def test_a_channel_gets_its_own_confirms_although_its_number_was_a_consumers_before(vhost_url: str) -> None:
    fill(vhost_url, "work")
    async with connected(vhost_url) as connection:
        consumer = await Consumer.open(connection, "work", time.monotonic)
        await consumer.start(1)
        number = consumer._number
        await consumer.close()
        confirmed = asyncio.Event()

        channel = await connection.channel()
        await channel.call("confirm_delivery", lambda _frame: confirmed.set())
        channel.raw.basic_publish("", "work", b"one")

        assert channel.raw.channel_number == number
        await asyncio.wait_for(confirmed.wait(), 10)


async def test_received_bytes_and_frames_are_counted_as_pika_counts_them(vhost_url: str) -> None:
    """The heartbeat checker takes a connection for idle when the count of bytes does not move."""
    fill(vhost_url, "q", *[b"x" * 1000] * 20)
    async with connected(vhost_url) as connection:
        raw: Any = connection.raw
        received = 0
        whole = raw._on_data_available

        def counting(data: bytes) -> None:
            nonlocal received
            received += len(data)
            whole(data)

        raw._on_data_available = counting
        bytes_before, frames_before = raw.bytes_received, raw.frames_received
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(100)
        await taken(consumer, 20)
        assert raw.bytes_received - bytes_before == received - len(raw._frame_buffer)
        # Channel.OpenOk, QosOk, ConsumeOk, then method, header and body of each delivery.
        assert raw.frames_received - frames_before == 3 + 3 * 20


async def test_a_broker_that_falls_silent_is_noticed_by_its_heartbeat(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("silence")
    fill(url, "q", b"x")
    async with connected(url, heartbeat_seconds=2) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(10)
        await taken(consumer, 1)
        breakable_broker.freeze()
        reason = await asyncio.wait_for(asyncio.shield(connection.closed), 30)
        assert "heartbeat" in str(reason)
        assert consumer.cancelled.is_set()
        breakable_broker.thaw()


async def test_heartbeats_of_an_idle_connection_keep_it_open(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with connected(vhost_url, heartbeat_seconds=2) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(10)
        frames = connection.raw.frames_received
        await eventually_async(lambda: connection.raw.frames_received >= frames + 2, "two heartbeats", 10)
        assert connection.is_open


async def test_a_broken_frame_ends_the_connection_and_not_the_process(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with connected(vhost_url) as connection:
        await Consumer.open(connection, "q", time.monotonic)
        connection.raw._on_data_available(b"\x01\x00\x01\x00\x00\x00\x01A?")
        assert "bytes were damaged" in str(await asyncio.wait_for(asyncio.shield(connection.closed), 5))


async def test_deliveries_that_come_in_the_same_read_as_the_end_are_counted(vhost_url: str) -> None:
    fill(vhost_url, "q", b"one", b"two")
    async with connected(vhost_url) as connection:
        raw: Any = connection.raw
        held = bytearray()
        consumer = await Consumer.open(connection, "q", time.monotonic)
        counted: list[int] = []
        consumer.on_received = counted.append
        await consumer.start(0)
        whole = raw._on_data_available
        raw._on_data_available = held.extend
        fill(vhost_url, "q", b"three")
        await eventually_async(lambda: b"three" in held)
        closing = b"\x00\x0a\x00\x32\x01\x40\x00\x00\x00\x00\x00"  # connection.close, 320
        whole(bytes(held) + b"\x01\x00\x00" + len(closing).to_bytes(4, "big") + closing + b"\xce")
        assert sum(counted) == consumer.unsettled == 3
        raw._on_data_available = whole


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (pika.connection.Connection, "_on_data_available"),
        (pika.connection.Connection, "_process_frame"),
        (pika.connection.Connection, "_output_marshaled_frames"),
        (pika.connection.Connection, "_terminate_stream"),
        (pika.adapters.asyncio_connection.AsyncioConnection, "_on_data_available"),
    ],
)
def test_what_the_seam_leans_on_exists_in_pika(owner: Any, name: str) -> None:
    assert callable(getattr(owner, name))


def test_pikas_reader_and_heartbeat_checker_still_work_the_way_the_seam_replaces() -> None:
    reader = inspect.getsource(pika.connection.Connection._on_data_available)
    assert "_frame_buffer" in reader
    assert "_process_frame" in reader
    assert "bytes_received" in inspect.getsource(pika.connection.Connection._trim_frame_buffer)
    assert "frames_received" in inspect.getsource(pika.connection.Connection._process_frame)
    assert "bytes_received" in inspect.getsource(pika.heartbeat.HeartbeatChecker)


async def test_an_open_connection_has_what_the_seam_leans_on(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with connected(vhost_url) as connection:
        raw: FramingConnection = connection.raw
        await Consumer.open(connection, "q", time.monotonic)
        assert raw._transport._MAX_RECV_BYTES == 128 * 1024
        assert raw.unsent_bytes == 0
        assert raw.frame_max == FRAME
        assert isinstance(raw._frame_buffer, bytes)
