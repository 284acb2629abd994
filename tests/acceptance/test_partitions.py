"""A partitioned ingress from outside: grown under load with pools that come and go, and seen by whoever looks."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.support.amqp import plain
from tests.support.command import cim_worker, printed_json
from tests.support.eventually import eventually
from tests.support.steady_load import SteadyLoad
from tests.support.worker_pool import Pool, World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

INGRESS = "cim.ingress"


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    return World(vhost_url, store.uri, database, tmp_path)


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


def command(world: World, *words: str) -> Any:
    return cim_worker(
        *words,
        CIM_RABBITMQ_URL=world.amqp_url,
        CIM_MONGODB_URI=world.mongodb_uri,
        CIM_MONGODB_DATABASE=world.database,
        CIM_RETRY_DELAYS="1s",
    )


def replaced(stack: ExitStack, world: World, outgoing: Pool) -> Pool:
    """Start a pool, which looks for partitions, and then stop the one before it."""
    incoming = stack.enter_context(world.pool())
    incoming.wait_for("consuming")
    outgoing.signal()
    assert outgoing.wait() == 0
    return incoming


@pytest.mark.slow
def test_partitions_made_and_grown_under_load_lose_nothing_and_repeat_nothing(world: World) -> None:
    world.apply_topology()
    with ExitStack() as stack:
        pool = stack.enter_context(world.pool())
        pool.wait_for("consuming")
        desk = world.open("c-1")
        through = SteadyLoad(world.amqp_url, "c-1", key=None, name="through")
        by_name = SteadyLoad(world.amqp_url, "c-1", exchange="", name="by-name")
        with through, by_name:
            for partitions in (2, 3):
                applied = command(world, "topology", "apply", "--partitions", str(partitions))
                assert applied.returncode == 0, applied.stdout
                pool = replaced(stack, world, pool)
                assert pool.lines("consuming")[0]["partitions"] == partitions
        loads = (through, by_name)
        live, stored, invalid = (
            [one for load in loads for one in getattr(load, kind)] for kind in ("live", "stored", "invalid")
        )
        events: list[str] = []
        letters: list[str] = []

        def all_there() -> bool:
            events.extend(json.loads(body)["data"]["id"] for *_, body in world.received(desk))
            letters.extend(one.message_id for _, one, _ in world.received("cim.dead-letters"))
            return len(events) >= len(live) and len(letters) >= len(invalid) and world.stored_ids() >= set(stored)

        eventually(all_there, "every message")
        assert pool.metrics_now()["cim_moved_total"] > 0

    assert Counter(events) == Counter(live)
    assert Counter(letters) == Counter(invalid)
    assert Counter(one["messageId"] for one in world.collection("ConversationActivities")) == Counter(stored)
    assert [world.depth(queue) for queue in (INGRESS, f"{INGRESS}.0", f"{INGRESS}.1", f"{INGRESS}.2")] == [0] * 4


def test_retries_return_to_their_partition_and_a_pause_and_every_look_are_of_all(world: World) -> None:
    world.apply_topology(2)
    with world.pool() as pool:
        pool.wait_for("consuming")
        desk = world.open("c-1")
        full = world.open("c-2")
        with plain(world.amqp_url) as channel:
            channel.queue_delete(full)
            channel.queue_declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
            channel.queue_bind(full, "conversation.c-2")
            channel.basic_publish("", full, b"it is full now")
        for number in range(20):
            world.publish(message(f"m-{number}", conversationId="c-1"), exchange=INGRESS, key=f"key-{number}")
        world.publish(message("refused", conversationId="c-2"), exchange=INGRESS, key="c-2")

        got: list[str] = []

        def got_so_many(count: int) -> bool:
            got.extend(json.loads(body)["data"]["id"] for *_, body in world.received(desk))
            return len(got) == count

        eventually(lambda: got_so_many(20), "every event")
        eventually(lambda: world.stored("refused"), "the event that was refused twice")
        assert pool.metrics_now()["cim_moved_total"] == 1  # its retry

        assert command(world, "pause", "--reason", "a test").returncode == 0
        eventually(lambda: _consumers(world) == [0, 0, 0], "no consumer of any partition")
        for number in range(20):
            world.publish(message(f"n-{number}", conversationId="c-1"), exchange=INGRESS, key=f"key-{number}")
        world.publish(message("by-name", conversationId="c-1"))
        report = printed_json(command(world, "status", "--json"))
        assert (report["lag"], report["partitions"]) == (21, 2)
        assert report["queues"]["cim.ingress"]["ready"] == 1
        assert any("wait in cim.ingress.1, and no worker consumes it" in line for line in report["attention"])
        assert command(world, "resume").returncode == 0
        eventually(lambda: got_so_many(41), "what came in the pause")


def _consumers(world: World) -> list[int]:
    connection = pika.BlockingConnection(pika.URLParameters(world.amqp_url))
    try:
        channel = connection.channel()
        queues = (INGRESS, f"{INGRESS}.0", f"{INGRESS}.1")
        return [int(channel.queue_declare(one, passive=True).method.consumer_count) for one in queues]
    finally:
        connection.close()


def test_fewer_partitions_are_refused_and_a_check_knows_those_that_are_there(world: World) -> None:
    assert command(world, "topology", "apply", "--partitions", "2").returncode == 0
    fewer = command(world, "topology", "apply", "--partitions", "1")
    assert fewer.returncode == 2
    assert "the ingress has 2 partitions, and they only grow: --partitions 2 or more" in fewer.stderr
    found = printed_json(command(world, "topology", "check", "--json"))
    assert found["problems"] == 0
    assert {one["name"] for one in found["findings"]} >= {"cim.ingress.partitions", "cim.ingress.0", "cim.ingress.1"}
    exported = printed_json(command(world, "topology", "export", "--partitions", "2"))
    ways = {(one["source"], one["destination"], one["routing_key"]) for one in exported["bindings"]}
    assert ways >= {(INGRESS, "cim.ingress.partitions", "#"), ("cim.ingress.partitions", "cim.ingress.1", "1")}
    assert (INGRESS, INGRESS, "#") not in ways
