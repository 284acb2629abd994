"""A pool whose store is there and fails: nothing is dead-lettered for it, and all is stored when it is well again."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.services.store import StoreProcess, embedded_store
from tests.support import wire_proxy as wire
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.mongo import indexes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def world(vhost_url: str, proxy: wire.WireProxy, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, proxy.uri, database, tmp_path)
    made.apply_topology()
    return made


def message(message_id: str, text: str = "hello", **header: Any) -> bytes:
    return json.dumps(
        {
            "id": message_id,
            "header": {"sender": {"id": "app-1", "type": "APP"}, **header},
            "body": {"type": "PLAIN", "markdownText": text},
        }
    ).encode()


@pytest.mark.parametrize("number", [13, 85, 86])
def test_an_index_the_store_refuses_neither_delays_nor_stops_the_work(
    world: World, proxy: wire.WireProxy, number: int
) -> None:
    refuse = wire.error(number, "SomeConflict")
    asked_to_expire: list[object] = []

    async def answer(exchange: wire.Exchange) -> None:
        asked_to_expire.extend(one for one in exchange.command.body["indexes"] if "expireAfterSeconds" in one)
        await refuse(exchange)

    refusing = proxy.on("createIndexes", answer=answer)
    own = {(index.collection, index.name) for index in indexes.ALL if index.collection != "ConversationActivities"}

    def refused() -> list[tuple[str, str]]:
        return [(line["collection"], line["index"]) for line in pool.lines("store_index_refused")]

    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready", seconds=15)
        queue = world.open("c-1", roomInfo={"id": "room-1"})
        world.publish(message("m-1", conversationId="c-1"), message("m-2", customer={"_id": "u-1"}))
        eventually(lambda: len(world.stored_ids()) == 1, "the other stored")
        [(_, _, event)] = eventually(lambda: world.received(queue), "the event")
        eventually(lambda: own <= set(refused()), "each index refused")

        assert json.loads(event)["roomInfo"]["id"] == "room-1"
        assert len(set(refused())) == len(refused()), "each is said once"
        assert asked_to_expire, "an index that expires"
        assert refusing.count == len(refused()) + len(asked_to_expire), "those are asked for as ordinary ones, too"
        assert pool.lines("dependency_down") == []
        assert pool.ready() == (True, [])


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[StoreProcess]:
    """A store whose disk can be filled."""
    server = embedded_store(tmp_path)
    server.start()
    yield server
    server.stop()


def customers(message_id: str, text: str = "hello") -> bytes:
    return message(message_id, text, customer={"_id": "customer-1"})


def test_a_full_disk_dead_letters_nothing_and_all_is_stored_when_there_is_room(
    vhost_url: str, own_store: StoreProcess, tmp_path: Path
) -> None:
    """150 messages of 100 kB; about ten of them fit."""
    world = World(vhost_url, own_store.uri, "full", tmp_path)
    world.apply_topology()
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        own_store.fill_disk()
        world.publish(*(customers(f"m-{number}", "x" * 100_000) for number in range(150)))
        [down] = pool.wait_for("dependency_down")
        full_until = time.monotonic() + 15
        eventually(lambda: time.monotonic() > full_until, "fifteen seconds of a full disk")
        assert not pool.ready()[0]
        assert len(world.stored_ids()) < 150

        own_store.empty_disk()
        eventually(lambda: len(world.stored_ids()) == 150, "all stored", seconds=60)
        eventually(lambda: pool.ready()[0], "ready again")
        pool.wait_for("dependency_up")

        assert "write error 8" in down["reason"]
        assert pool.lines("dead_letter") == []
        assert len(pool.lines("dependency_down")) == 1
        assert world.depth("cim.dead-letters") == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(wire.write_error(365), id="365 for every document"),
        pytest.param(wire.write_error(146), id="146 for every document"),
        pytest.param(wire.write_error(16500), id="throttled"),
        pytest.param(wire.error(2, "BadValue"), id="2 for the command"),
        pytest.param(wire.error(13, "Unauthorized"), id="13 for the command"),
        pytest.param(wire.error(10107, "NotWritablePrimary"), id="10107 for the command"),
    ],
)
def test_a_store_that_answers_a_ping_and_refuses_writes_is_one_outage(
    world: World, proxy: wire.WireProxy, answer: wire.Answer
) -> None:
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        sick = proxy.on("insert", collection="ConversationActivities", answer=answer)
        world.publish(*(customers(f"m-{number}") for number in range(200)))
        pool.wait_for("dependency_down")
        started, before = time.monotonic(), sick.count
        eventually(lambda: time.monotonic() > started + 5, "five seconds of refusals")
        assert sick.count - before < 50, "it hammers a store that refuses"

        sick.end()
        eventually(lambda: len(world.stored_ids()) == 200, "all stored")
        pool.wait_for("dependency_up")

        assert pool.lines("dead_letter") == []
        assert len(pool.lines("dependency_down")) == 1
        assert len(pool.lines("dependency_up")) == 1


def test_a_document_that_fails_alone_for_an_unknown_reason_takes_the_retry_tiers_and_harms_nobody(
    world: World, proxy: wire.WireProxy
) -> None:
    answer = wire.write_error(365, lambda document: document["messageId"] == "poisoned")
    proxy.on("insert", collection="ConversationActivities", answer=answer)
    with world.pool(CIM_MAX_ATTEMPTS="2") as pool:
        eventually(lambda: pool.ready()[0], "ready")
        world.publish(customers("poisoned"), *(customers(f"m-{number}") for number in range(20)))
        sent = itertools.count(20)

        def dead() -> list[dict[str, Any]]:
            world.publish(customers(f"m-{next(sent)}"))  # one by one: what is stored after it failed is the evidence
            return pool.lines("dead_letter")

        [letter] = eventually(dead, "the poisoned one dead", seconds=60)
        others = next(sent)
        eventually(lambda: len(world.stored_ids()) == others, "its neighbours stored")

        assert letter["message_id"] == "poisoned"
        assert letter["code"] == "unexpected_error"


def test_what_waits_for_a_registry_that_is_away_does_not_spin_between_the_broker_and_the_worker(
    world: World, proxy: wire.WireProxy
) -> None:
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        refusing = proxy.on("find", collection="conversations", answer=wire.error(13, "Unauthorized"))
        world.publish(*(message(f"s-{number}", channelSessionId=f"s-{number}") for number in range(60)))
        world.publish(*(customers(f"m-{number}") for number in range(10)))
        eventually(lambda: len(world.stored_ids()) == 10, "what needs no lookup is stored")
        pool.wait_for("dependency_down")

        started, before = time.monotonic(), pool.metrics_now()["cim_received_total"]
        eventually(lambda: time.monotonic() > started + 4, "four seconds")
        assert pool.metrics_now()["cim_received_total"] - before <= 6 * 50, "at most fifty a second come back in vain"

        refusing.end()
        eventually(lambda: len(world.stored_ids()) == 70, "all stored")
        metrics = eventually(
            lambda: found if not (found := pool.metrics_now())["cim_in_flight"] else {}, "nothing in flight"
        )
        assert metrics["cim_received_total"] == ended(metrics)
        assert pool.lines("dead_letter") == []
        assert len(pool.lines("dependency_down")) == 1


def ended(metrics: dict[str, float]) -> float:
    """Return the sum of all outcomes."""
    return sum(value for name, value in metrics.items() if name.startswith("cim_outcomes_total"))
