"""Nothing that waits holds up what need not wait: a store that is away, a subscriber that refuses."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pika
import pytest

from tests.acceptance.test_run import customers, message
from tests.services.store import StoreProcess, embedded_store
from tests.support.amqp import plain
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Store


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[StoreProcess]:
    """A store that may be killed."""
    (tmp_path / "store").mkdir()
    server = embedded_store(tmp_path / "store")
    server.start()
    yield server
    server.stop()


class Load:
    """A hundred live messages a second and a hundred that need the store, and how long the live ones took."""

    def __init__(self, world: World, desk: str) -> None:
        self._world = world
        self._desk = desk
        self._stopping = threading.Event()
        self.sent = 0
        """Of each kind."""
        self.seconds: dict[str, float] = {}
        """From publishing to the subscriber, by message id."""

    def publish(self) -> None:
        with plain(self._world.amqp_url) as channel:
            while not self._stopping.wait(0.1):
                for _ in range(10):
                    self.sent += 1
                    live = message(f"live-{self.sent}", str(time.time()), conversationId="c-1")
                    for body in (live, customers(f"stored-{self.sent}")):
                        channel.basic_publish("", "cim.ingress", body, pika.BasicProperties(delivery_mode=2))

    def subscribe(self) -> None:
        with plain(self._world.amqp_url) as channel:
            for method, _, body in channel.consume(self._desk, auto_ack=True, inactivity_timeout=0.1):
                if method is not None:
                    data = json.loads(body)["data"]
                    self.seconds[data["id"]] = time.time() - float(data["body"]["markdownText"])
                elif self._stopping.is_set():
                    return

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.publish), threading.Thread(target=self.subscribe)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_store_costs_live_traffic_nothing_and_the_rest_is_stored_afterwards(
    vhost_url: str, own_store: StoreProcess, tmp_path: Path
) -> None:
    world = World(vhost_url, own_store.uri, "killed", tmp_path)
    world.apply_topology()
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        load = Load(world, world.open("c-1"))
        with load.running():
            eventually(lambda: load.sent >= 200, "both flow")
            own_store.kill()
            away_until = time.monotonic() + 15
            eventually(lambda: time.monotonic() > away_until, "fifteen seconds without a store")
            own_store.start()
            back, sent = time.monotonic(), load.sent
            eventually(lambda: load.sent >= sent + 100, "both flow again")
        eventually(lambda: len(world.stored_ids()) == load.sent, "all stored")
        assert time.monotonic() - back < 30

        slow = {name: seconds for name, seconds in load.seconds.items() if seconds > 2}
        assert len(load.seconds) == load.sent > 500, "each live event is at its subscriber"
        assert len(slow) < 0.01 * load.sent, slow
        assert pool.lines("retry") == pool.lines("dead_letter") == []
        assert len(pool.lines("dependency_down")) == len(pool.lines("dependency_up")) == 1


def test_a_subscriber_that_refuses_costs_the_others_one_repetition_and_the_event_is_stored(
    vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(vhost_url, store.uri, database, tmp_path)
    world.apply_topology()
    full = {"x-queue-type": "classic", "x-max-length": 3, "x-overflow": "reject-publish"}
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        good = world.open("c-1")
        with plain(world.amqp_url) as channel:
            channel.queue_declare("full", durable=True, arguments=full)
            channel.queue_bind("full", "conversation.c-1")
        names = [f"m-{number}" for number in range(30)]
        world.publish(*(message(name, conversationId="c-1") for name in names))
        eventually(lambda: len(world.stored_ids()) >= 20, "what the full queue refused is stored")
        eventually(
            lambda: not pool.metrics_now()["cim_in_flight"] and not world.depth("cim.ingress.retry.1s"), "the end"
        )

        received = [json.loads(body)["data"]["id"] for *_, body in world.received(good)]
        stored = {one["messageId"]: one["storedBecause"] for one in world.collection("ConversationActivities")}
        assert set(received) == set(names)
        assert max(map(received.count, names)) <= 2
        assert set(stored.values()) == {"refused_by_subscriber"}
        assert pool.lines("dead_letter") == []
        assert world.depth("cim.dead-letters") == 0
