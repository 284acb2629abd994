"""The journal as its readers find it: every outcome in the stream, and a sick stream that nobody else feels."""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.amqp import plain
from tests.support.eventually import eventually
from tests.support.from_schema import schema_of
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Broker, Store


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


def customers(message_id: str) -> bytes:
    return message(message_id, customer={"_id": "customer-1"})


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def journal(url: str) -> list[dict[str, Any]]:
    """Read the stream from its beginning to where it ends now."""
    entries: list[dict[str, Any]] = []
    with plain(url) as channel:
        channel.basic_qos(prefetch_count=100)
        first = {"x-stream-offset": "first"}
        for method, _, body in channel.consume("cim.outcomes", arguments=first, inactivity_timeout=1):
            if method is None:
                break
            entries.append(schema_of("journal").checked(json.loads(gzip.decompress(body))))
            channel.basic_ack(method.delivery_tag)
        channel.cancel()
    return entries


def outcomes(url: str) -> dict[str, tuple[str, str | None, str | None]]:
    """Return outcome, reason and code by message id."""
    return {
        one["messageId"]: (one["outcome"], one["reason"], one["code"])
        for entry in journal(url)
        for one in entry["outcomes"]
    }


def test_every_outcome_is_in_the_journal_with_its_reason(world: World) -> None:
    with world.pool() as pool:
        pool.wait_for("consuming")
        queue = world.open("c-1")
        world.publish(
            message("live", conversationId="c-1"),
            customers("alone"),
            customers("alone"),
            message("nowhere", conversationId="unheard-of"),
            message("session", channelSessionId="unheard-of"),
            message("invalid"),
        )
        eventually(lambda: len(world.stored_ids()) == 3 and world.depth("cim.dead-letters") == 1)
        stored_alone = 'cim_outcomes_total{body_type="PLAIN",code="",outcome="stored",reason="stand_alone"}'
        eventually(lambda: pool.metrics_now().get(stored_alone) == 1, "its outcome was counted")
        pool.signal()
        assert pool.wait() == 0
    assert world.received(queue)
    (dead,) = [one for entry in journal(world.amqp_url) for one in entry["outcomes"] if one["outcome"] == "dead"]
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="100"):
        (letter,) = eventually(lambda: list(world.collection("dead_letters")))
    assert dead["letterId"] == letter["_id"]
    found = outcomes(world.amqp_url)
    assert found == {
        "live": ("published", None, None),
        "alone": found["alone"],
        "nowhere": ("stored", "unknown_conversation", None),
        "session": ("stored", "unknown_session", None),
        "invalid": ("dead", None, "missing_anchor"),
    }
    entries = [one for entry in journal(world.amqp_url) for one in entry["outcomes"]]
    assert {one["outcome"] for one in entries if one["messageId"] == "alone"} == {"stored", "duplicate"}
    assert len(entries) == 6
    stored = {one["eventId"] for one in entries if one["outcome"] == "stored"}
    documents = world.collection("ConversationActivities")
    assert stored == {str(one["_id"]) for one in documents}
    now = time.time() * 1000
    assert all(now - 120_000 < one["receivedAt"] <= one["at"] <= now for one in entries)


def connections_named(broker: Broker, world: World, name: str) -> list[str]:
    """Return how the management API calls the worker's connections of this name."""
    rows = broker.management.request("GET", "/connections")
    vhost = world.amqp_url.rpartition("/")[2]
    mine = [one for one in rows if one.get("vhost") == vhost]
    return [one["name"] for one in mine if one["client_properties"].get("connection_name") == name]


def test_a_journal_that_is_deleted_while_running_is_said_once_and_nothing_else_feels_it(world: World) -> None:
    with world.pool() as pool:
        pool.wait_for("consuming")
        with plain(world.amqp_url) as channel:
            channel.queue_delete("cim.outcomes")
        world.publish(*(customers(str(number)) for number in range(300)))
        eventually(lambda: len(world.stored_ids()) == 300, "all stored")
        eventually(lambda: world.depth("cim.ingress") == 0)
        (line,) = pool.lines("dependency_down")
        assert (line["dependency"], "topology apply" in line["reason"]) == ("journal", True)
        pool.metrics_now()  # processes report to the supervisor once a second
        assert pool.ready() == (True, [])
        eventually(lambda: pool.metrics()["cim_journal_missed_total"] == 300)
        world.apply_topology()

        def again() -> list[dict[str, Any]]:
            world.publish(customers("again"))
            return pool.lines("dependency_up")

        eventually(again, "the journal is back", 60)
    gaps = [entry["gap"] for entry in journal(world.amqp_url) if "gap" in entry]
    assert sum(gap["count"] for gap in gaps) >= 300


def test_when_the_journals_connection_ends_the_session_goes_on_and_the_journal_with_another(
    world: World, broker: Broker
) -> None:
    def journals() -> list[str]:
        return connections_named(broker, world, "cim-worker 0 journal")

    with world.pool() as pool:
        pool.wait_for("consuming")
        world.publish(customers("before"))
        (first,) = eventually(journals, "the broker knows the journal's connection")
        broker.management.request("DELETE", f"/connections/{quote(first, safe='')}")
        eventually(lambda: first not in journals(), "it has ended")
        world.publish(customers("after"))
        eventually(lambda: world.stored_ids() == {"before", "after"})
        eventually(lambda: world.depth("cim.ingress") == 0)

        def written() -> bool:
            world.publish(customers("later"))
            return any(one["messageId"] == "later" for entry in journal(world.amqp_url) for one in entry["outcomes"])

        eventually(written, "the journal goes on", 60)
        assert len(pool.lines("consuming")) == 1, "the session is the same"
        assert [line for line in pool.lines("dependency_down") if line["dependency"] == "broker"] == []


def test_a_journal_that_is_full_drops_its_oldest_and_nothing_else_feels_it(world: World) -> None:
    small = {"x-queue-type": "stream", "x-max-length-bytes": 2000, "x-stream-max-segment-size-bytes": 1000}
    with plain(world.amqp_url) as channel:
        channel.queue_delete("cim.outcomes")
        channel.queue_declare("cim.outcomes", durable=True, arguments=small)
    with world.pool(CIM_BATCH_SIZE="10") as pool:
        pool.wait_for("consuming")
        for start in range(0, 400, 100):
            world.publish(*(customers(str(number)) for number in range(start, start + 100)))
        eventually(lambda: len(world.stored_ids()) == 400, "all stored")
        eventually(lambda: world.depth("cim.ingress") == 0, "and acknowledged")

        def stored() -> float:
            return sum(count for name, count in pool.metrics().items() if name.startswith("cim_outcomes_total"))

        eventually(lambda: stored() == 400, "all counted: processes report once a second")
        assert pool.metrics()["cim_journal_missed_total"] == 0
        assert not pool.lines("dependency_down")
    left = set(outcomes(world.amqp_url))
    assert len(left) < 400, "the oldest were dropped"
    assert "399" in left, "the newest is there"


def test_the_journal_can_be_switched_off(world: World) -> None:
    with world.pool(CIM_JOURNAL="false") as pool:
        pool.wait_for("consuming")
        world.publish(customers("1"))
        eventually(lambda: len(world.stored_ids()) == 1)
    assert not journal(world.amqp_url)
