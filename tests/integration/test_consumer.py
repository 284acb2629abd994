"""Consuming from a real broker: the window, acknowledgements and ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.amqp import QUORUM, connected, consuming, cut, depth, fill, plain, taken
from tests.support.eventually import eventually_async
from worker.rabbit import fast_path
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.services.broker import CertificateFiles, LocalBroker


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


async def test_it_waits_for_the_broker_until_that_says_that_it_will_deliver(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with connected(vhost_url) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        assert not consumer.is_waiting, "nothing was asked for"
        starting = asyncio.create_task(consumer.start(1))
        await asyncio.sleep(0)
        assert consumer.is_waiting
        await starting
        assert not consumer.is_waiting


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
    await eventually_async(lambda: depth(vhost_url, "q") == 8)  # the queue is told by the channel, not by us


async def test_what_is_let_go_holds_no_bytes_and_is_acknowledged_when_that_is_asked_for(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(10))
    async with consuming(vhost_url, "q") as (connection, consumer):
        deliveries = await taken(consumer, 10)
        frames = written(connection)
        (first,) = consumer.let_go(deliveries[:3])
        (never,) = consumer.let_go(deliveries[3:5])
        (last,) = consumer.let_go(deliveries[3:9])
        assert connection._bytes_in_hand == 1, "the body of the tenth"
        await asyncio.sleep(0.01)
        assert (frames, consumer.unsettled) == ([], 10), "nothing is acknowledged before it is asked for"
        first()
        last()
        await eventually_async(lambda: consumer.unsettled == 3)
        assert [one.body for one in await consumer.hand_back()] == [b"9"], "its effect is proven"
        await consumer.close()
        never()
    await eventually_async(lambda: depth(vhost_url, "q") == 3, "in doubt it comes again")


async def test_what_arrives_after_handing_back_is_neither_taken_nor_counted(vhost_url: str) -> None:
    fill(vhost_url, "q", *numbered(5))
    counted: list[int] = []
    async with consuming(vhost_url, "q") as (_, consumer):
        consumer.on_received = counted.append
        await taken(consumer, 5)
        before = sum(counted)
        await consumer.hand_back()
        await eventually_async(lambda: depth(vhost_url, "q") == 5, "all are in the queue, and not given to us again")
        consumer.on_deliver(99, redelivered=False, exchange="", routing_key="q", properties=b"", body=b"late")
        consumer.on_read()
        assert (sum(counted), consumer.unsettled, consumer.waiting) == (before, 0, 0)
    assert depth(vhost_url, "q") == 5


@pytest.mark.parametrize("failed", [False, True])
async def test_a_delivery_handed_out_before_says_so(vhost_url: str, failed: bool) -> None:  # noqa: FBT001 - a parameter
    fill(vhost_url, "q", b"once")
    for before in range(3):
        async with consuming(vhost_url, "q") as (_, consumer):
            (delivery,) = await taken(consumer, 1)
            assert delivery.redelivered == (before > 0)
            assert delivery.prior_deliveries == before
            await consumer.stop()
            await consumer.hand_back(failed=failed)


async def test_what_comes_back_from_failed_work_reaches_the_delivery_limit_on_every_broker_version(
    vhost_url: str,
) -> None:
    fill(vhost_url, "q", b"breaks sessions", arguments={**QUORUM, "x-delivery-limit": 3})
    for _ in range(4):
        async with consuming(vhost_url, "q") as (_, consumer):
            await taken(consumer, 1)
            await consumer.hand_back(failed=True)
    await eventually_async(lambda: depth(vhost_url, "q") == 0)
    async with consuming(vhost_url, "q") as (_, consumer):
        await consumer.wait_for(1, 0.5)
        assert consumer.waiting == 0


async def test_what_comes_back_from_a_clean_stop_never_reaches_the_delivery_limit_from_4_3_on(vhost_url: str) -> None:
    fill(vhost_url, "q", b"innocent", arguments={**QUORUM, "x-delivery-limit": 3})
    async with connected(vhost_url) as connection:
        times = 8 if connection.server_version >= (4, 3) else 3
    for _ in range(times):
        async with consuming(vhost_url, "q") as (_, consumer):
            await taken(consumer, 1)  # and handed back by closing the connection, which is a clean end too
    assert depth(vhost_url, "q") == 1


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


# -- bytes in hand ----------------------------------------------------------------------------------------------------

MIB = 1 << 20
BOUND = 8 * MIB


@asynccontextmanager
async def holding_all_it_may(url: str, count: int = 40, **options: Any) -> AsyncIterator[tuple[Connection, Consumer]]:
    """Yield a consumer that was sent *count* bodies of one mebibyte, after its connection has stopped reading."""
    fill(url, "q", *[b"x" * MIB] * count)
    async with connected(url, max_bytes_in_hand=BOUND, **options) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(2000)
        await eventually_async(lambda: connection.raw._paused, "reading pauses at the bound")
        assert BOUND <= connection._bytes_in_hand < BOUND + MIB
        yield connection, consumer


async def work_off(consumer: Consumer, count: int) -> None:
    """Take and settle deliveries until *count* have come."""
    async with asyncio.timeout(30):
        while count > 0:
            await consumer.wait_for_arrival()
            for delivery in consumer.take(min(3, count), 1 << 40):
                consumer.settle(delivery)
                count -= 1
            await asyncio.sleep(0)
    assert count == 0


async def test_at_the_bound_no_more_is_read_until_half_of_it_is_settled(vhost_url: str) -> None:
    async with holding_all_it_may(vhost_url) as (connection, consumer):
        held = consumer.unsettled
        assert held == 8
        for delivery in consumer.take(3, 1 << 40):
            consumer.settle(delivery)
        await eventually_async(lambda: connection._bytes_in_hand == 5 * MIB)
        assert connection.raw._paused
        consumer.settle(consumer.take(1, 1 << 40)[0])
        await eventually_async(lambda: consumer.unsettled == 8, "reading goes on, up to the bound again")
        await work_off(consumer, 40 - 4)
        assert connection._bytes_in_hand == 0
        assert not connection.raw._paused
    assert depth(vhost_url, "q") == 0


async def test_a_connection_that_does_not_read_is_kept_alive_on_both_sides_and_goes_on(vhost_url: str) -> None:
    async with holding_all_it_may(vhost_url, heartbeat_seconds=2) as (connection, consumer):
        sent = connection.raw._heartbeat_checker._heartbeat_frames_sent
        # pika's check comes after 2 + 5 seconds, the broker's after at most 2 * 2
        await eventually_async(lambda: connection.raw._heartbeat_checker._heartbeat_frames_sent >= sent + 12)
        assert connection.is_open
        assert connection.raw._paused
        await work_off(consumer, 40)
        assert connection.is_open


@pytest.mark.slow
async def test_a_broker_that_waits_for_us_longer_than_its_own_limit_does_not_drop_us(vhost_url: str) -> None:
    """RabbitMQ drops a connection that takes nothing for 30 seconds."""
    started = time.monotonic()
    async with holding_all_it_may(vhost_url) as (connection, consumer):
        sent = connection.raw._heartbeat_checker._heartbeat_frames_sent
        held = connection._bytes_in_hand
        await eventually_async(lambda: connection.raw._heartbeat_checker._heartbeat_frames_sent >= sent + 4, "", 60)
        assert connection.is_open
        assert connection.raw._paused
        reads = int((time.monotonic() - started) / fast_path._A_LITTLE_EVERY_SECONDS)
        assert held < connection._bytes_in_hand <= held + reads * 2 * MIB, "the rest of one, and another, each time"
        await work_off(consumer, 40)


async def test_over_tls_it_is_the_same(breakable_broker: LocalBroker, certificates: CertificateFiles) -> None:
    name = breakable_broker.create_vhost("bytes in hand").rpartition("/")[2]
    url = breakable_broker.tls_url + name
    fill(f"{breakable_broker.url}{name}", "q", *[b"x" * MIB] * 40)
    async with connected(url, max_bytes_in_hand=BOUND, ca_file=str(certificates.authority)) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(2000)
        await eventually_async(lambda: connection.raw._paused)
        await asyncio.sleep(0.3)  # what TLS had read ahead would come now
        assert BOUND <= connection._bytes_in_hand < BOUND + MIB
        await work_off(consumer, 40)
        assert not connection.raw._paused


async def test_a_broker_that_falls_silent_while_nothing_is_read_is_noticed_when_reading_goes_on(
    breakable_broker: LocalBroker,
) -> None:
    url = breakable_broker.create_vhost("silence at the bound")
    async with holding_all_it_may(url, heartbeat_seconds=2) as (connection, consumer):
        breakable_broker.freeze()

        def settled_and_ended() -> bool:
            for delivery in consumer.take(100, 1 << 40):  # what was in the sockets, too
                consumer.settle(delivery)
            return connection.closed.done()

        await eventually_async(settled_and_ended)
        assert "heartbeat" in str(connection.closed.result())
        breakable_broker.thaw()


async def test_a_connection_that_is_lost_while_nothing_is_read_is_noticed(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("loss at the bound")
    async with holding_all_it_may(url, heartbeat_seconds=2) as (connection, consumer):
        breakable_broker.kill()
        await asyncio.wait_for(asyncio.shield(connection.closed), 10)
        assert consumer.cancelled.is_set()
        assert await consumer.hand_back()


async def test_at_the_bound_the_window_can_be_changed_and_the_consumer_stopped_without_waiting(vhost_url: str) -> None:
    async with holding_all_it_may(vhost_url) as (_, consumer):
        await asyncio.wait_for(consumer.resize(1), 1)
        await asyncio.wait_for(consumer.stop(), 1)
        assert consumer.may_deliver, "what the broker had sent before"
        while consumer.may_deliver:
            await work_off(consumer, consumer.waiting)
            await asyncio.sleep(0.01)
        await work_off(consumer, consumer.waiting)
        assert consumer.unsettled == 0
        assert not consumer.is_consuming
        await asyncio.wait_for(consumer.start(2000), 5)
        await work_off(consumer, depth(vhost_url, "q") + consumer.waiting)


async def test_at_the_bound_handing_back_and_closing_wait_for_nothing(vhost_url: str) -> None:
    async with holding_all_it_may(vhost_url) as (connection, consumer):
        started = time.monotonic()
        assert len(await consumer.hand_back()) == 8
        await consumer.close()
        await connection.close()
        assert time.monotonic() - started < 3
    await eventually_async(lambda: depth(vhost_url, "q") == 40)


async def test_at_the_bound_closing_the_connection_hands_back_by_itself(vhost_url: str) -> None:
    async with holding_all_it_may(vhost_url) as (connection, consumer):
        started = time.monotonic()
        await connection.close()
        assert time.monotonic() - started < 3
        assert consumer.unsettled == connection._bytes_in_hand == 0
    await eventually_async(lambda: depth(vhost_url, "q") == 40)


async def test_the_bound_is_one_for_all_consumers_of_a_connection(vhost_url: str) -> None:
    fill(vhost_url, "a", *[b"x" * MIB] * 5)
    fill(vhost_url, "b", *[b"x" * MIB] * 20)
    async with connected(vhost_url, max_bytes_in_hand=BOUND) as connection:
        first = await Consumer.open(connection, "a", time.monotonic)
        second = await Consumer.open(connection, "b", time.monotonic)
        await first.start(100)
        await first.wait_for(5, 10)
        await second.start(100)
        await eventually_async(lambda: connection.raw._paused)
        assert (first.unsettled, second.unsettled) == (5, 3)
        await asyncio.gather(work_off(first, 5), work_off(second, 20))


async def test_one_body_larger_than_the_bound_is_taken_alone(vhost_url: str) -> None:
    fill(vhost_url, "q", *[b"x" * 2 * BOUND] * 3)
    async with connected(vhost_url, max_bytes_in_hand=BOUND) as connection:
        consumer = await Consumer.open(connection, "q", time.monotonic)
        await consumer.start(100)
        for _ in range(3):
            (delivery,) = await taken(consumer, 1)
            assert consumer.unsettled == 1
            consumer.settle(delivery)
        await eventually_async(lambda: not connection.raw._paused)


@pytest.mark.parametrize("end", ["channel", "connection"])
async def test_what_an_ordered_consumer_held_comes_before_the_rest_when_it_ends_in_good_order(
    vhost_url: str, end: str
) -> None:
    """A consumer that is cancelled first lets the next one begin: what it held would come after what followed."""
    fill(vhost_url, "q", *numbered(150), arguments={**QUORUM, "x-single-active-consumer": True})
    async with connected(vhost_url) as other:
        connection = await Connection.open(vhost_url, name="test")
        first = await Consumer.open(connection, "q", time.monotonic, is_ordered=True)
        await first.start(60)
        await taken(first, 60)
        second = await Consumer.open(other, "q", time.monotonic, is_ordered=True)
        await second.start(60)
        await (first.close() if end == "channel" else connection.close())

        came = []
        for _ in range(5):
            deliveries = await taken(second, 30)
            came += [delivery.body for delivery in deliveries]
            second.settle_all(deliveries)
        await connection.close()
    assert came == numbered(150)
