"""Memory is bounded by bytes, however much the broker pushes at once. Figures are the peak of the real process."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.amqp import publishing
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.services import Store
    from tests.support.worker_pool import Pool

MIB = 1 << 20
BOUND = 400 * MIB


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def message(number: int, text: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP", "senderName": "App"}, "customer": {"_id": "customer-1"}}
    return json.dumps({"id": f"m-{number}", "header": header, "body": {"type": "PLAIN", "markdownText": text}}).encode()


def large(number: int) -> bytes:
    return message(number, "x" * (MIB - 300))


def opening(number: int, size: int) -> bytes:
    """Return a lifecycle event that opens a conversation and is *size* bytes long."""
    data = {"id": f"c-{number}", "state": "ACTIVE", "notes": "x" * size}
    event = {"id": str(number), "name": "TOPIC_STATE_CHANGED", "timestamp": 1_760_000_000_000 + number, "data": data}
    return json.dumps({**event, "conversationId": f"c-{number}"}).encode()


def publish(world: World, exchange: str, key: str, bodies: Iterator[bytes]) -> None:
    async def send() -> None:
        async with publishing(world.amqp_url) as (_, publisher):
            numbered = enumerate(bodies)
            while some := [
                Outgoing(exchange, key, f"{key}-{number}", body)
                for number, body in (one for _, one in zip(range(20), numbered, strict=False))
            ]:
                assert set(await publisher.publish(some)) == {Confirmation.CONFIRMED}

    asyncio.run(send())


def peak(pool: Pool) -> int:
    """Return the most bytes that the pool's one worker process had resident."""
    (worker,) = pool.workers()
    status = Path(f"/proc/{worker}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def ended(pool: Pool) -> int:
    metrics = pool.metrics()
    return int(sum(value for name, value in metrics.items() if name.startswith("cim_outcomes_total")))


@pytest.mark.slow
def test_a_prefetch_full_of_large_messages_does_not_fill_the_memory(world: World) -> None:
    small = (message(number, "hello") for number in range(300))
    publish(world, "", "cim.ingress", small)
    publish(world, "", "cim.ingress", (large(number) for number in range(300, 2200)))
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0])
        eventually(lambda: ended(pool) > 600, "the small ones, and some hundred large ones", 120)
        assert peak(pool) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("anchor", ['"customer":{"_id":"customer-1"}', '"channelSessionId":"s-1"'])
def test_messages_that_take_many_times_their_size_when_parsed_do_not_fill_the_memory(world: World, anchor: str) -> None:
    parts = ",".join(['{"":0}'] * (MIB // 7 - 60))
    start = (
        '{"id":"m-%d","header":{"sender":{"id":"app-1","type":"APP"},' + anchor + '},"body":{"type":"PLAIN","parts":['
    )
    publish(world, "", "cim.ingress", ((start % number + parts + "]}}").encode() for number in range(120)))
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0])
        eventually(lambda: ended(pool) >= 120, "all of them", 120)
        assert peak(pool) < BOUND
        assert pool.lines("dead_letter") == []


@pytest.mark.slow
def test_a_large_channel_session_in_every_event_does_not_fill_the_memory(world: World) -> None:
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0])
        session = {"id": "s-1", "channel": {"name": "x" * (MIB - 300)}}
        world.tell("c-1", "ACTIVE", 1_760_000_000_000, channelSession=session)
        desk = world.subscribe("c-1")
        of_session = {"sender": {"id": "app-1", "type": "APP"}, "channelSessionId": "s-1"}
        body = {"header": of_session, "body": {"type": "PLAIN", "markdownText": "hello"}}
        publish(world, "", "cim.ingress", (json.dumps({"id": f"m-{n}", **body}).encode() for n in range(3000)))
        eventually(lambda: ended(pool) >= 300, "some hundred of them", 120)
        assert peak(pool) < BOUND
    [(_, _, event), *_] = world.received(desk)
    assert len(event) > MIB


@pytest.mark.slow
def test_large_lifecycle_events_do_not_fill_the_memory(world: World) -> None:
    publish(
        world, "cim.conversation-events", "TOPIC_STATE_CHANGED", (opening(number, 7 * MIB) for number in range(100))
    )
    with world.pool() as pool:
        eventually(lambda: len(pool.lines("conversation")) == 100, "all conversations are open", 120)
        assert peak(pool) < BOUND


@pytest.mark.slow
def test_bodies_that_grow_when_parsed_do_not_fill_the_memory(world: World) -> None:
    body = b"[" + b",".join([b'{"":0}'] * (MIB // 7 - 1)) + b"]"
    publish(world, "", "cim.ingress", (body for _ in range(120)))
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0])
        eventually(lambda: ended(pool) >= 120, "all are dead letters", 120)
        assert peak(pool) < BOUND
