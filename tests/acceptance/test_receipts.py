"""Publishers that ask for receipts get them, from the real worker through a real broker; nobody else gets anything."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pika
import pytest

from tests.acceptance.test_journal import connections_named, customers, message
from tests.support.amqp import plain
from tests.support.eventually import eventually
from tests.support.from_schema import schema_of
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Broker, Store
    from tests.support.worker_pool import Pool


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


class Asker:
    """A publisher that reads its receipts with direct reply-to."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.receipts: list[tuple[str, dict[str, Any]]] = []
        channel.basic_consume("amq.rabbitmq.reply-to", self._take, auto_ack=True)

    def ask(self, body: bytes, correlation_id: str, **headers: Any) -> None:
        properties = pika.BasicProperties(
            reply_to="amq.rabbitmq.reply-to", correlation_id=correlation_id, delivery_mode=2, headers=headers
        )
        self.channel.basic_publish("", "cim.ingress", body, properties)

    def outcomes(self, count: int) -> list[tuple[str, str]]:
        """Wait for *count* receipts; return correlation id and outcome of each, in the order they came."""

        def enough() -> bool:
            self.channel.connection.process_data_events(0.05)
            return len(self.receipts) >= count

        eventually(enough, f"{count} receipts")
        return [(correlation_id, receipt["outcome"]) for correlation_id, receipt in self.receipts]

    def _take(self, _: Any, __: Any, properties: Any, body: bytes) -> None:
        assert properties.type == "cim.receipt"
        self.receipts.append((properties.correlation_id, schema_of("receipt").checked(json.loads(body))))


@contextlib.contextmanager
def asker(world: World) -> Iterator[Asker]:
    with plain(world.amqp_url) as channel:
        yield Asker(channel)


def counted(pool: Pool) -> dict[str, float]:
    found = {name: value for name, value in pool.metrics().items() if name.startswith("cim_receipts_total")}
    return {name.split('"')[1]: value for name, value in found.items()}


def test_a_publisher_is_told_what_became_of_each_message_through_retries_too(world: World) -> None:
    with world.pool() as pool, asker(world) as publisher:
        pool.wait_for("consuming")
        world.open("c-1")
        world.open("c-full")
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        with plain(world.amqp_url) as channel:
            channel.queue_declare("full", arguments=full)
            channel.queue_bind("full", "conversation.c-full")
            channel.basic_publish("", "full", b"taken")
        publisher.ask(message("live", conversationId="c-1"), "1")
        publisher.ask(customers("alone"), "2")
        assert sorted(publisher.outcomes(2)) == [("1", "published"), ("2", "stored")]
        publisher.ask(customers("alone"), "3")
        publisher.ask(message("invalid"), "4")
        publisher.ask(b"no json", "5")
        assert sorted(publisher.outcomes(5)[2:]) == [("3", "duplicate"), ("4", "dead"), ("5", "dead")]
        publisher.ask(message("refused", conversationId="c-full"), "6", **{"cim-receipts": "all"})
        assert publisher.outcomes(7)[5:] == [("6", "delayed"), ("6", "stored")]
        assert publisher.receipts[-1][1]["reason"] == "refused_by_subscriber"
        eventually(lambda: counted(pool) == {"sent": 7})
    by_id = dict(publisher.receipts)
    assert by_id["1"]["conversationId"] == "c-1"
    assert [one["code"] for one in by_id["4"]["problems"]] == ["missing_anchor"]
    assert {by_id["2"]["eventId"], by_id["6"]["eventId"]} == {
        str(one["_id"]) for one in world.collection("ConversationActivities")
    }
    assert by_id["2"]["eventId"] == by_id["3"]["eventId"]


def known(counts: dict[str, float]) -> dict[str, float]:
    """Return *counts* without the one whose result depends on the broker's version."""
    made_up = 1
    sent = counts.pop("sent", 0) + counts.pop("unknown", 0) - made_up
    return {**counts, "sent": sent}


def test_nothing_goes_where_receipts_may_not_go_and_what_does_not_arrive_is_counted(world: World) -> None:
    with plain(world.amqp_url) as channel:
        channel.queue_declare("orders")
        channel.queue_declare("cim.receipts.app", durable=True)
        channel.queue_declare("cim.receipts.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.basic_publish("", "cim.receipts.full", b"taken")
    with world.pool() as pool:
        pool.wait_for("consuming")
        # Three nodes may take more than a second to confirm the first entry of a new stream.
        world.publish(customers("first"))
        eventually(world.stored_ids, "the first outcome")
        missed_at_first = pool.metrics_now()["cim_journal_missed_total"]
        for address in ("cim.ingress", "cim.dead-letters", "orders"):
            world.publish(customers(f"to {address}"), reply_to=address)
        world.publish(customers("forged"), headers={"cim-reply-to": "cim.receipts.app", "cim-receipts": "all"})
        world.publish(customers("full"), reply_to="cim.receipts.full")
        world.publish(*(customers(f"named {number}") for number in range(3)), reply_to="cim.receipts.app")
        # Brokers before 4.0 end the whole connection that publishes to an address they cannot read.
        world.publish(customers("made up"), reply_to="amq.rabbitmq.reply-to.g1h2AAxnb25l.gone")
        with plain(world.amqp_url) as channel:
            for number in range(1000):
                properties = pika.BasicProperties(reply_to=f"cim.receipts.asker-{number}")
                channel.basic_publish("", "cim.ingress", customers(f"asker {number}"), properties)
        eventually(lambda: len(world.stored_ids()) == 1010, "every message has its outcome", 60)
        expected = {"sent": 3, "address_refused": 3, "queue_gone": 1000, "queue_refused": 1}
        eventually(lambda: known(counted(pool)) == expected, "every receipt is counted")
        eventually(lambda: pool.ready()[0], "ready: the pool says so once a second")
        assert world.depth("orders") == world.depth("cim.dead-letters") == world.depth("cim.ingress") == 0
        assert pool.metrics()["cim_journal_missed_total"] == missed_at_first
    receipts = world.received("cim.receipts.app")
    assert {json.loads(body)["messageId"] for *_, body in receipts} == {"named 0", "named 1", "named 2"}
    down = [one["dependency"] for one in pool.lines("dependency_down")]
    assert "broker" not in down, "no connection of the job has ended"
    assert len(pool.lines("consuming")) == 1


@pytest.mark.parametrize("address", ["cim.receipts.app", "amq.rabbitmq.reply-to"])
def test_when_the_connection_of_receipts_ends_the_session_goes_on_and_receipts_with_another(
    world: World, broker: Broker, address: str
) -> None:
    def connections() -> list[str]:
        return connections_named(broker, world, "cim-worker 0 receipts")

    with world.pool() as pool, plain(world.amqp_url) as channel:
        pool.wait_for("consuming")
        channel.queue_declare("cim.receipts.app", durable=True)
        came: list[str] = []

        def take(_: Any, __: Any, ___: Any, body: bytes) -> None:
            came.append(json.loads(body)["messageId"])

        channel.basic_consume(address, take, auto_ack=True)

        def told(name: str) -> bool:
            properties = pika.BasicProperties(reply_to=address, delivery_mode=2)
            channel.basic_publish("", "cim.ingress", customers(name), properties)
            channel.connection.process_data_events(0.2)
            return name in came

        eventually(lambda: told("before"), "a receipt")
        (first,) = eventually(connections, "the broker knows the connection")
        broker.management.request("DELETE", f"/connections/{quote(first, safe='')}")
        eventually(lambda: first not in connections(), "it has ended")
        eventually(lambda: told("after"), "a receipt again", 60)
        assert len(pool.lines("consuming")) == 1, "the session is the same"
        assert pool.lines("dependency_down") == []


def test_receipts_can_be_switched_off(world: World) -> None:
    with world.pool(CIM_RECEIPTS="false") as pool, plain(world.amqp_url) as channel:
        pool.wait_for("consuming")
        channel.queue_declare("cim.receipts.app")
        world.publish(customers("1"), reply_to="cim.receipts.app")
        eventually(lambda: world.stored_ids() == {"1"})
        eventually(lambda: world.depth("cim.ingress") == 0)
    assert world.depth("cim.receipts.app") == 0
