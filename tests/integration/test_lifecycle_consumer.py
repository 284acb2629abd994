"""The keeper on a real broker and store: events in, registry and conversation exchanges out."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest

from tests.support.amqp import depth, gathered, plain
from tests.support.eventually import eventually_async
from tests.support.workbench import Workbench, running, workbench
from worker.conversations.conversation import ConversationRecord, ConversationState
from worker.conversations.lifecycle_consumer import LifecycleConsumer
from worker.mongo.registry import Registry
from worker.rabbit.consumer import Consumer
from worker.rabbit.exchanges import ConversationExchanges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.services.services import Broker, Store
    from worker.ports import Delivery

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "lifecycle"
T0 = 1_760_000_000_000


class Platform:
    """The platform's side: sends conversation events, and looks at what became of them."""

    def __init__(self, url: str, bench: Workbench) -> None:
        self.url = url
        self.bench = bench
        self.registry = Registry(bench.store)
        self.sent = self.settled = 0

    def send(self, *bodies: bytes | dict[str, Any]) -> None:
        with plain(self.url) as channel:
            for body in bodies:
                self.sent += 1
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                key = "?" if isinstance(body, bytes) else body["name"]
                channel.basic_publish("cim.conversation-events", key, raw, pika.BasicProperties(delivery_mode=2))

    async def done(self) -> None:
        """Wait until every event is settled."""
        await eventually_async(lambda: self.settled == self.sent, "all events")

    def count_settled(self, consumer: Consumer) -> None:
        settle = consumer.settle

        def counting(delivery: Delivery) -> None:
            self.settled += 1
            settle(delivery)

        consumer.settle = counting  # type: ignore[method-assign]

    async def record(self, conversation_id: str) -> ConversationRecord | None:
        record = await self.registry.get(conversation_id)
        return record if isinstance(record, ConversationRecord) else None

    def is_live(self, conversation_id: str) -> bool:
        """Whether the hub routes this conversation's events to its exchange, where somebody listens."""
        queue = f"listener of {conversation_id}"
        with plain(self.url) as channel:
            channel.queue_declare(queue)
            try:
                channel.queue_bind(queue, f"conversation.{conversation_id}")
            except pika.exceptions.ChannelClosedByBroker:
                return False
            try:
                channel.basic_publish("cim.conversations", conversation_id, b"?", mandatory=True)
            except pika.exceptions.UnroutableError:
                return False
            return True

    def has_exchange(self, conversation_id: str) -> bool:
        with plain(self.url) as channel:
            try:
                channel.exchange_declare(f"conversation.{conversation_id}", passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            return True


def state_event(conversation_id: str, state: str, at: int = T0, **data: Any) -> dict[str, Any]:
    return {
        "id": f"e-{conversation_id}-{state}-{at}",
        "name": "TOPIC_STATE_CHANGED",
        "type": "NOTIFICATION",
        "timestamp": at,
        "conversationId": conversation_id,
        "data": {"id": conversation_id, "state": state, "customer": {"_id": "customer"}, **data},
    }


@asynccontextmanager
async def keeper(
    url: str, store: Store, database: str, *, grace_ms: int = 60_000
) -> AsyncIterator[tuple[Platform, LifecycleConsumer]]:
    async with workbench(url, store.uri, database) as bench:
        platform = Platform(url, bench)
        consumer = await Consumer.open(bench.connection, "cim.conversation-events", time.monotonic)
        platform.count_settled(consumer)
        made = LifecycleConsumer(
            consumer=consumer,
            registry=platform.registry,
            exchanges=ConversationExchanges(bench.connection),
            publisher=bench.publisher,
            gate=bench.gate,
            cache=bench.cache,
            grace_ms=grace_ms,
            clock=bench.clock,
            reporter=bench.reported,
            new_id=bench.new_id,
        )
        async with running(made.run()):
            yield platform, made


async def test_a_conversation_opens_closes_and_opens_again(vhost_url: str, store: Store, database: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        for at, state, live in ((1, "ACTIVE", True), (2, "CLOSED", False), (3, "ACTIVE", True), (4, "CLOSING", False)):
            platform.send(state_event("c", state, T0 + at))
            await platform.done()
            record = await platform.record("c")
            assert record is not None
            assert record.state.value == state
            assert platform.is_live("c") == live
        assert platform.has_exchange("c"), "it stays for the grace period"


async def test_old_news_and_repetitions_change_nothing(vhost_url: str, store: Store, database: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        closed, opened = state_event("c", "CLOSED", T0 + 2), state_event("c", "ACTIVE", T0 + 1)
        platform.send(closed, opened, opened, closed)
        platform.send(state_event("d", "ACTIVE", T0 + 9), state_event("d", "CLOSED", T0 + 8))
        await platform.done()
        assert not platform.is_live("c")
        assert platform.is_live("d")


@pytest.mark.parametrize("state", list(ConversationState))
async def test_only_closing_and_closed_are_not_live(vhost_url: str, store: Store, database: str, state: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        platform.send(state_event("c", state))
        await platform.done()
        assert platform.is_live("c") == (state not in {"CLOSING", "CLOSED"})


async def test_the_platforms_own_shapes_are_understood(vhost_url: str, store: Store, database: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        for name in ("channel_session_started", "topic_state_change_event", "channel_session_ended"):
            platform.send(json.loads((EXAMPLES / f"{name}.json").read_bytes()))
        platform.send(json.loads((EXAMPLES / "associated_customer_changed.json").read_bytes()))
        await platform.done()
        record = await platform.record("65f0c0ffee0000000000abcd")
        assert record is not None
        assert {fact.value["id"] for fact in record.sessions} >= {"66aa00000000000000000010"}
        platform.send(json.loads((EXAMPLES / "topic_state_changed.json").read_bytes()))
        await platform.done()
        assert not platform.is_live("65f0c0ffee0000000000abcd")


async def test_a_session_of_an_unknown_conversation_opens_it(vhost_url: str, store: Store, database: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        platform.send(json.loads((EXAMPLES / "channel_session_started.json").read_bytes()))
        await platform.done()
        assert platform.is_live("65f0c0ffee0000000000abcd")


async def test_events_that_say_nothing_of_conversations_are_acknowledged_and_ignored(
    vhost_url: str, store: Store, database: str
) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        platform.send({"name": "AGENT_SUBSCRIBED", "data": {}}, state_event("c", "ACTIVE"))
        await platform.done()
        assert platform.is_live("c")
        assert depth(vhost_url, "cim.dead-letters") == 0


async def test_an_unreadable_event_is_dead_lettered_and_does_not_stop_the_next(
    vhost_url: str, store: Store, database: str
) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        nameless = {"name": "TOPIC_STATE_CHANGED", "timestamp": T0, "data": {"id": "c"}}
        platform.send(b"\xff not json", nameless, state_event("c", "ACTIVE"))
        await platform.done()
        letters = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 2)
        assert [body for *_, body in letters] == [b"\xff not json", json.dumps(nameless).encode()]
        codes = [properties.headers["cim-code"] for _, properties, _ in letters]
        assert codes == ["invalid_utf8", "missing_field"]
        assert letters[1][1].headers["cim-pointer"] == "/data/state"
        assert letters[1][1].headers["cim-origin-queue"] == "cim.conversation-events"
        assert platform.is_live("c")


async def test_the_exchange_of_a_closed_conversation_is_deleted_after_the_grace_and_not_that_of_a_reopened_one(
    vhost_url: str, store: Store, database: str
) -> None:
    async with keeper(vhost_url, store, database, grace_ms=100) as (platform, _):
        platform.send(state_event("reopened", "CLOSED", T0 + 1), state_event("gone", "CLOSED", T0 + 1))
        platform.send(state_event("reopened", "ACTIVE", T0 + 2), state_event("kept", "ACTIVE", T0 + 1))
        platform.send(
            state_event("gone", "CLOSED", T0 + 3), state_event("last", "ACTIVE"), state_event("last", "CLOSED", T0 + 1)
        )
        await platform.done()
        await eventually_async(lambda: not platform.has_exchange("last"), seconds=10)
        assert not platform.has_exchange("gone")
        assert platform.is_live("reopened")
        assert platform.is_live("kept")


async def test_a_new_keeper_deletes_what_the_one_before_did_not_live_to_delete(
    vhost_url: str, store: Store, database: str
) -> None:
    now = int(time.time() * 1000)
    async with keeper(vhost_url, store, database) as (platform, _):
        platform.send(state_event("old", "ACTIVE", now - 5), state_event("old", "CLOSED", now - 4))
        await platform.done()
        assert platform.has_exchange("old")
    async with keeper(vhost_url, store, database, grace_ms=0) as (platform, _):
        platform.send(state_event("new", "ACTIVE", now))
        await platform.done()
        await eventually_async(lambda: not platform.has_exchange("old"), seconds=10)
        assert platform.is_live("new")


async def test_an_exchange_that_cannot_be_deleted_does_not_keep_the_others(
    vhost_url: str, store: Store, database: str, broker: Broker
) -> None:
    vhost = urlsplit(vhost_url).path[1:]
    broker.management.create_user("keeper", "pw")
    broker.management.set_permissions("keeper", vhost)
    url = vhost_url.replace("guest:guest@", "keeper:pw@")
    async with keeper(url, store, database, grace_ms=1500) as (platform, _):
        platform.send(state_event("a", "ACTIVE"), state_event("a", "CLOSED", T0 + 1))
        platform.send(state_event("b", "ACTIVE"), state_event("b", "CLOSED", T0 + 1))
        await platform.done()
        broker.management.set_permissions("keeper", vhost, configure=r"^conversation\.b$|^listener.*")
        await eventually_async(lambda: not platform.has_exchange("b"), seconds=10)
        assert ("conversation_exchange_kept", "broker_access_refused") in [
            (what, facts["code"]) for what, facts in platform.bench.reported.warnings
        ]


async def test_the_cache_forgets_what_changed(vhost_url: str, store: Store, database: str) -> None:
    async with keeper(vhost_url, store, database) as (platform, _):
        platform.send(state_event("c", "ACTIVE"))
        await platform.done()
        record = await platform.record("c")
        assert record is not None
        platform.bench.cache.remember(record.to_conversation(), time.monotonic())
        platform.send(state_event("c", "CLOSED", T0 + 1))
        await platform.done()
        assert platform.bench.cache.by_conversation("c", time.monotonic()) is None
