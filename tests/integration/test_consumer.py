"""Consuming from a real broker: the window, acknowledgements and ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.amqp import connected, consuming, cut, depth, fill, plain, taken
from tests.support.eventually import eventually_async
from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from worker.rabbit.connection import Connection


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def written(connection: Connection) -> list[bytes]:
    """Return the list to which everything sent from now on is added, in one entry per write."""
    frames: list[bytes] = []
    raw: Any = connection.raw
    send = raw.send

    def noting(parts: list[bytes]) -> None:
        frames.append(b"".join(parts))
        send(parts)

    raw.send = noting
    return frames


async def test_a_run_of_settled_deliveries_is_acknowledged_in_one_frame(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(50))
    async with consuming(vhost_url, "q") as (connection, consumer):
        deliveries = await taken(consumer, 50)
        frames = written(connection)
        for delivery in deliveries:
            consumer.settle(delivery)
            consumer.settle(delivery)
        await eventually_async(lambda: frames)
        assert len(frames) == 1
        assert len(frames[0]) == 21, "one basic.ack"
        assert consumer.unsettled == 0
    assert depth(vhost_url, "q") == 0


async def test_settled_deliveries_behind_a_stuck_one_are_acknowledged_singly_and_only_the_stuck_one_comes_back(
    vhost_url: str,
) -> None:
    fill(vhost_url, "q", *numbered(20))
    async with consuming(vhost_url, "q", prefetch=10) as (_, consumer):
        stuck, *others = await taken(consumer, 10)
        for delivery in others:
            consumer.settle(delivery)
        more = await taken(consumer, 9)
        assert more[0].body == b"10", "the window moved on"
        for delivery in more:
            consumer.settle(delivery)
        for delivery in await taken(consumer, 1):
            consumer.settle(delivery)
        await eventually_async(lambda: consumer.unsettled == 1)
        assert await consumer.hand_back() == [stuck]
        await consumer.stop()
        await consumer.close()
    assert depth(vhost_url, "q") == 1


async def test_no_more_is_delivered_than_the_window_holds_until_it_is_resized(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(40))
    async with consuming(vhost_url, "q", prefetch=3) as (_, consumer):
        await taken(consumer, 3)
        assert depth(vhost_url, "q") == 37
        await consumer.resize(20)
        assert consumer.is_consuming
        await consumer.wait_for(20, 10)
        assert consumer.unsettled == 23, "a new prefetch is a new consumer's; what is held stays held"


async def test_handing_back_returns_everything_unsettled_and_nothing_settled(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(10))
    async with consuming(vhost_url, "q") as (_, consumer):
        deliveries = await taken(consumer, 6)
        await consumer.wait_for(4, 10)
        consumer.settle(deliveries[0])
        consumer.settle(deliveries[3])
        await consumer.stop()
        back = await consumer.hand_back()
        assert [one.body for one in back] == [b"1", b"2", b"4", b"5", b"6", b"7", b"8", b"9"]
        assert consumer.unsettled == consumer.waiting == 0
        consumer.settle(deliveries[1])
        await consumer.close()
        assert not consumer.is_open
    assert depth(vhost_url, "q") == 8


async def test_what_arrives_after_handing_back_is_neither_taken_nor_counted(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(5))
    counted: list[int] = []
    async with consuming(vhost_url, "q") as (_, consumer):
        consumer.on_received = counted.append
        await taken(consumer, 5)
        before = sum(counted)
        await consumer.hand_back()  # not stopped: the broker gives all of them out again
        await asyncio.wait_for(consumer.resize(1), 10)
        consumer.on_deliver(99, redelivered=False, exchange="", routing_key="q", properties=b"", body=b"late")
        consumer.on_read()
        assert (sum(counted), consumer.unsettled, consumer.waiting) == (before, 0, 0)
    assert depth(vhost_url, "q") == 5


async def test_a_delivery_handed_out_before_says_so(vhost_url: str) -> None:
    fill(vhost_url, "q", b"once")
    for before in range(3):
        async with consuming(vhost_url, "q") as (_, consumer):
            (delivery,) = await taken(consumer, 1)
            assert delivery.redelivered == (before > 0)
            assert delivery.prior_deliveries == before
            await consumer.stop()
            await consumer.hand_back()


async def test_a_queue_that_is_deleted_cancels_the_consumer_and_stopping_it_then_does_not_hang(vhost_url: str) -> None:
    fill(vhost_url, "q", b"x")
    async with consuming(vhost_url, "q") as (connection, consumer):
        (delivery,) = await taken(consumer, 1)
        with plain(vhost_url) as channel:
            channel.queue_delete("q")
        await asyncio.wait_for(consumer.cancelled.wait(), 10)
        assert not consumer.is_consuming
        await asyncio.wait_for(consumer.wait_for_arrival(), 1)
        await asyncio.wait_for(consumer.stop(), 5)
        consumer.settle(delivery)
        await asyncio.wait_for(consumer.hand_back(), 5)
        assert connection.is_open


async def test_a_consumer_that_is_being_started_can_be_stopped(vhost_url: str) -> None:
    """Cancelled between basic.consume and its reply, as by SIGTERM during a resize."""
    fill(vhost_url, "q", *numbered(5))
    async with connected(vhost_url) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        starting = asyncio.create_task(consumer.start(2))
        await eventually_async(lambda: consumer.is_consuming)
        starting.cancel()
        await asyncio.wait([starting])
        await asyncio.wait_for(consumer.stop(), 5)
        held = consumer.unsettled
        await consumer.hand_back()
        await consumer.close()
        assert held <= 2
    assert depth(vhost_url, "q") == 5


async def test_a_lost_connection_wakes_whoever_waits(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with consuming(vhost_url, "q") as (connection, consumer):
        waiting = asyncio.create_task(consumer.wait_for_arrival())
        await asyncio.sleep(0)
        cut(connection)
        await asyncio.wait_for(waiting, 5)
        assert consumer.cancelled.is_set()
        assert not consumer.is_open
        await consumer.stop()
        assert await consumer.hand_back() == []


async def test_taking_is_bounded_in_count_and_bytes(vhost_url: str) -> None:
    fill(vhost_url, "q", *[b"x" * 100] * 10)
    async with consuming(vhost_url, "q") as (_, consumer):
        await consumer.wait_for(10, 10)
        assert consumer.waiting == 10
        assert len(consumer.take(3, 10_000)) == 3
        assert len(consumer.take(10, 250)) == 2
        assert len(consumer.take(10, 1)) == 1, "at least one"
        assert len(consumer.take(10, 10_000)) == 4
        assert consumer.take(10, 10_000) == []


async def test_every_run_of_arrivals_is_counted_once(vhost_url: str) -> None:
    counted: list[int] = []
    async with connected(vhost_url) as connection:
        fill(vhost_url, "q", *numbered(30))
        consumer = await Consumer.open(connection, "q", time.monotonic)
        consumer.on_received = counted.append
        await consumer.start(100)
        await taken(consumer, 30)
        assert sum(counted) == 30


@pytest.mark.parametrize("headers", [{"at": b"ms"}, None])
async def test_properties_are_decoded_when_asked_for(vhost_url: str, headers: dict[str, Any] | None) -> None:
    fill(vhost_url, "q", b"x", headers=headers, message_id="m")
    async with consuming(vhost_url, "q") as (_, consumer):
        (delivery,) = await taken(consumer, 1)
        assert delivery.properties is delivery.properties
        assert delivery.properties.message_id == "m"
