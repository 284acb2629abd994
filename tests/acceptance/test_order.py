"""The order of activities with one routing key, seen from outside: through retries, deaths and an absent store."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.support import wire_proxy as wire
from tests.support.amqp import plain
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import Pool, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


INGRESS = "cim.ingress"
_ORDERED = {"CIM_INGRESS_ORDER": "true"}


@pytest.fixture
def world(vhost_url: str, proxy: wire.WireProxy, database: str, tmp_path: Path) -> World:
    return World(vhost_url, proxy.uri, database, tmp_path)


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


class Desk:
    """A subscriber of one conversation that remembers which messages arrived, in their order."""

    def __init__(self, world: World, conversation_id: str, **data: Any) -> None:
        self._world = world
        self.queue = world.open(conversation_id, **data)
        self.arrived: list[str] = []

    def has(self, count: int) -> bool:
        """Tell whether so many different messages have arrived."""
        self.arrived += [json.loads(body)["data"]["id"] for *_, body in self._world.received(self.queue)]
        return len(set(self.arrived)) == count

    def first_arrivals(self, start: str = "") -> list[str]:
        """Return each message once whose id begins so, as it came first: what was in doubt comes twice."""
        return list(dict.fromkeys(one for one in self.arrived if one.startswith(start)))


def refusing_desk(world: World, conversation_id: str, room_for: int) -> Desk:
    """Return a desk that has room for so many events, and refuses all for now: it is full."""
    desk = Desk(world, conversation_id)
    with plain(world.amqp_url) as channel:
        channel.queue_delete(desk.queue)
        channel.queue_declare(desk.queue, arguments={"x-max-length": room_for, "x-overflow": "reject-publish"})
        channel.queue_bind(desk.queue, f"conversation.{conversation_id}")
        for _ in range(room_for):
            channel.basic_publish("", desk.queue, message("it is full now"))
    return desk


def empty(world: World, desk: Desk) -> None:
    world.received(desk.queue)


def given_up(pools: Sequence[Pool]) -> list[str]:
    return [line["reason"] for pool in pools for line in pool.lines("order_given_up")]


def test_the_order_of_each_key_is_kept_through_the_death_of_a_worker(world: World) -> None:
    world.apply_topology(2, ordered=True)
    keys = [f"key-{number}" for number in range(6)]
    with world.pool(**_ORDERED) as dying, world.pool(**_ORDERED) as living:
        for pool in (dying, living):
            pool.wait_for("consuming")
        desk = Desk(world, "c-1")
        with plain(world.amqp_url) as channel:
            for number in range(200):
                for key in keys:
                    body = message(f"{key} {number:03}", conversationId="c-1")
                    channel.basic_publish(INGRESS, key, body, pika.BasicProperties(delivery_mode=2))
                if number == 100:
                    dying.kill_everything()
        eventually(lambda: desk.has(200 * len(keys)), "every event", seconds=60)
        assert given_up([dying, living]) == []

    for key in keys:
        assert desk.first_arrivals(f"{key} ") == [f"{key} {number:03}" for number in range(200)]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to stop"])
def test_a_key_in_a_retry_keeps_its_order_when_its_process_ends(world: World, end: signal.Signals) -> None:
    """The retry would come ten seconds later: what was in hand is worked on by another process long before."""
    settings = {**_ORDERED, "CIM_RETRY_DELAYS": "10s"}
    applied = cim_worker(
        "topology",
        "apply",
        "--partitions",
        "2",
        CIM_RABBITMQ_URL=world.amqp_url,
        CIM_MONGODB_URI=world.mongodb_uri,
        **settings,
    )
    assert applied.returncode == 0, applied.stdout
    with world.pool(**settings) as one, world.pool(**settings) as other:
        for pool in (one, other):
            pool.wait_for("consuming")
        desk = refusing_desk(world, "c-2", room_for=3)
        world.publish(message("r-0", conversationId="c-2"), exchange=INGRESS, key="r")
        eventually(lambda: one.lines("retry") + other.lines("retry"), "the retry")
        dying = one if one.lines("retry") else other
        for number in (1, 2):
            world.publish(message(f"r-{number}", conversationId="c-2"), exchange=INGRESS, key="r")
        assert dying.metrics_now().get("cim_retries_held_total") == 1
        empty(world, desk)
        if end is signal.SIGKILL:
            dying.kill_everything()
        else:
            dying.signal()
            assert dying.wait() == 0
        eventually(lambda: desk.has(3), "the events of the key", seconds=20)
        assert given_up([one, other]) == []

    assert desk.first_arrivals() == ["r-0", "r-1", "r-2"]


@contextlib.contextmanager
def away(proxy: wire.WireProxy) -> Iterator[None]:
    """Have every command fail as if the store ended, but those the driver finds it by."""
    rules = [
        proxy.on(*commands, answer=wire.error(11600, "InterruptedAtShutdown"))
        for commands in (("find", "aggregate"), ("insert", "update", "findAndModify"))
    ]
    yield
    for rule in rules:
        rule.end()


def test_what_waits_for_the_store_keeps_its_order_within_a_key_and_holds_nobody_up(
    world: World, proxy: wire.WireProxy
) -> None:
    """A pool of two, and a store that leaves again while what waits is being worked off."""
    world.apply_topology(1, ordered=True)
    waiting = [f"w-{number:03}" for number in range(200)]
    settings = {**_ORDERED, "CIM_PREFETCH": "80", "CIM_BATCH_SIZE": "20", "CIM_REGISTRY_CACHE_MS": "0"}
    with world.pool("--processes", "2", **settings) as pool:
        pool.wait_for("consuming", 2)
        desk = Desk(world, "c-1", channelSession={"id": "s-1", "conversationId": "c-1"})
        other = Desk(world, "c-2")
        with away(proxy):
            world.publish(message("any", channelSessionId="s-unknown"))
            pool.wait_for("dependency_down")
            bodies = [message(one, channelSessionId="s-1") for one in waiting]
            world.publish(*bodies, exchange=INGRESS, key="w")
            world.publish(*(message(f"s-{n}", customer={"_id": "u"}) for n in range(60)), exchange=INGRESS, key="u")
            for number in range(20):
                world.publish(message(f"l-{number:03}", conversationId="c-2"), exchange=INGRESS, key="l")
            eventually(lambda: other.has(20), "live events while many wait for the store", seconds=10)
            eventually(lambda: world.depth("cim.ingress.waiting") >= 180, "most of them in the waiting room")
        eventually(lambda: not desk.has(0), "the first that waited")
        with away(proxy):
            world.publish(message("again", customer={"_id": "u-2"}))
            # One outage, if the store went before all kinds of work on it had begun again.
            eventually(lambda: len(pool.lines("dependency_down")) > len(pool.lines("dependency_up")), "an outage")
        eventually(lambda: desk.has(200), "every event that waited", seconds=60)
        eventually(lambda: len(world.stored_ids()) == 62, "every activity that waited")
        assert given_up([pool]) == []

    assert desk.first_arrivals() == waiting
    assert other.first_arrivals() == [f"l-{number:03}" for number in range(20)]
