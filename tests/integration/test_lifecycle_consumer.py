"""The lifecycle consumer on a real broker and store: events in, registry and conversation exchanges out."""

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

from tests.support.amqp import cut, depth, drained, gathered, plain
from tests.support.eventually import eventually_async
from tests.support.wire_proxy import error, wire_proxy, write_error
from tests.support.workbench import Workbench, running, workbench
from worker.conversations.convergence import Convergence
from worker.conversations.conversation import ConversationRecord, ConversationState
from worker.conversations.lifecycle_consumer import LifecycleConsumer
from worker.conversations.reaper import Reaper
from worker.mongo.registry import Registry
from worker.pipeline.retry import RetryPolicy
from worker.rabbit.consumer import Consumer
from worker.rabbit.exchanges import ConversationExchanges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.services.services import Broker, Store
    from worker.conversations.lifecycle import LifecycleChange
    from worker.conversations.ports import Applied
    from worker.failure import Failure
    from worker.ports import Delivery

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "lifecycle"
T0 = 1_760_000_000_000


class BuggyRegistry(Registry):
    """The registry, with a bug that one conversation meets."""

    bug_for: str | None = None

    async def apply_each(self, changes: Sequence[LifecycleChange]) -> list[Applied | Failure]:
        if self.bug_for in {change.conversation_id for change in changes}:
            raise ZeroDivisionError
        return await super().apply_each(changes)


class Platform:
    """The platform's side: sends conversation events, and looks at what became of them."""

    def __init__(self, url: str, bench: Workbench) -> None:
        self.url = url
        self.bench = bench
        self.registry = BuggyRegistry(bench.store)
        self.sent = self.settled = 0
        self.owed: list[str] = []
        self.most_deliveries = 0

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
            self.most_deliveries = max(self.most_deliveries, 1 + delivery.prior_deliveries)
            settle(delivery)

        consumer.settle = counting  # type: ignore[method-assign]

    async def record(self, conversation_id: str) -> ConversationRecord | None:
        record = await self.registry.get(conversation_id)
        return record if isinstance(record, ConversationRecord) else None

    def store_was_away(self) -> bool:
        return bool(self.bench.reported.down)

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
async def lifecycle_consumer(
    url: str,
    store: Store,
    database: str,
    *,
    grace_ms: int = 60_000,
    uri: str | None = None,
) -> AsyncIterator[Platform]:
    async with workbench(url, uri or store.uri, database) as bench:
        platform = Platform(url, bench)
        convergence = Convergence(platform.registry, ConversationExchanges(bench.connection))
        reaper = Reaper(
            registry=platform.registry,
            convergence=convergence,
            gate=bench.gate,
            grace_ms=grace_ms,
            clock=bench.clock,
            reporter=bench.reported,
        )

        async def open_queue() -> Consumer:
            consumer = await Consumer.open(bench.connection, "cim.conversation-events", time.monotonic)
            platform.count_settled(consumer)
            return consumer

        made = LifecycleConsumer(
            open_queue=open_queue,
            registry=platform.registry,
            convergence=convergence,
            reaper=reaper,
            owe=platform.owed.append,
            publisher=bench.publisher,
            gate=bench.gate,
            cache=bench.cache,
            retry=RetryPolicy(("1s",), 3, per_second=100, now=time.monotonic()),
            clock=bench.clock,
            reporter=bench.reported,
            new_id=bench.new_id,
            random=lambda: 0.0,
        )
        async with running(made.run()), running(reaper.run()):
            yield platform


async def test_a_conversation_opens_closes_and_opens_again(vhost_url: str, store: Store, database: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        for at, state, live in ((1, "ACTIVE", True), (2, "CLOSED", False), (3, "ACTIVE", True), (4, "CLOSING", False)):
            platform.send(state_event("c", state, T0 + at))
            await platform.done()
            record = await platform.record("c")
            assert record is not None
            assert record.state.value == state
            assert platform.is_live("c") == live
        assert platform.has_exchange("c"), "it stays for the grace period"


async def test_old_news_and_repetitions_change_nothing(vhost_url: str, store: Store, database: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        closed, opened = state_event("c", "CLOSED", T0 + 2), state_event("c", "ACTIVE", T0 + 1)
        platform.send(closed, opened, opened, closed)
        platform.send(state_event("d", "ACTIVE", T0 + 9), state_event("d", "CLOSED", T0 + 8))
        await platform.done()
        assert not platform.is_live("c")
        assert platform.is_live("d")


@pytest.mark.parametrize("state", list(ConversationState))
async def test_only_closing_and_closed_are_not_live(vhost_url: str, store: Store, database: str, state: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send(state_event("c", state))
        await platform.done()
        assert platform.is_live("c") == (state not in {"CLOSING", "CLOSED"})


async def test_the_platforms_own_shapes_are_understood(vhost_url: str, store: Store, database: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
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
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send(json.loads((EXAMPLES / "channel_session_started.json").read_bytes()))
        await platform.done()
        assert platform.is_live("65f0c0ffee0000000000abcd")


async def test_events_that_say_nothing_of_conversations_are_acknowledged_and_ignored(
    vhost_url: str, store: Store, database: str
) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send({"name": "AGENT_SUBSCRIBED", "data": {}}, state_event("c", "ACTIVE"))
        await platform.done()
        assert platform.is_live("c")
        assert depth(vhost_url, "cim.dead-letters") == 0


async def test_an_unreadable_event_is_dead_lettered_and_does_not_stop_the_next(
    vhost_url: str, store: Store, database: str
) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        nameless = {"name": "TOPIC_STATE_CHANGED", "timestamp": T0, "data": {"id": "c"}}
        # A queue that has no leader yet refuses the first letter, which then comes behind the second.
        assert await asyncio.to_thread(drained, vhost_url, "cim.dead-letters") == []
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
    async with lifecycle_consumer(vhost_url, store, database, grace_ms=100) as platform:
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


async def test_a_new_process_deletes_what_the_one_before_did_not_live_to_delete(
    vhost_url: str, store: Store, database: str
) -> None:
    now = int(time.time() * 1000)
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send(state_event("old", "ACTIVE", now - 5), state_event("old", "CLOSED", now - 4))
        await platform.done()
        assert platform.has_exchange("old")
    async with lifecycle_consumer(vhost_url, store, database, grace_ms=0) as platform:
        platform.send(state_event("new", "ACTIVE", now))
        await platform.done()
        await eventually_async(lambda: not platform.has_exchange("old"), seconds=10)
        assert platform.is_live("new")


async def test_an_exchange_that_cannot_be_deleted_does_not_keep_the_others(
    vhost_url: str, store: Store, database: str, broker: Broker
) -> None:
    vhost = urlsplit(vhost_url).path[1:]
    broker.management.create_user("lifecycle_consumer", "pw")
    broker.management.set_permissions("lifecycle_consumer", vhost)
    url = vhost_url.replace("guest:guest@", "lifecycle_consumer:pw@")
    async with lifecycle_consumer(url, store, database, grace_ms=1500) as platform:
        platform.send(state_event("a", "ACTIVE"), state_event("a", "CLOSED", T0 + 1))
        platform.send(state_event("b", "ACTIVE"), state_event("b", "CLOSED", T0 + 1))
        await platform.done()
        broker.management.set_permissions("lifecycle_consumer", vhost, configure=r"^conversation\.b$|^listener.*")
        await eventually_async(lambda: not platform.has_exchange("b"), seconds=10)
        await eventually_async(
            lambda: (
                ("conversation_exchange_kept", "a", "broker_access_refused")
                in [(what, facts["conversation_id"], facts["code"]) for what, facts in platform.bench.reported.warnings]
            )
        )


async def test_the_cache_forgets_what_changed(vhost_url: str, store: Store, database: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send(state_event("c", "ACTIVE"))
        await platform.done()
        record = await platform.record("c")
        assert record is not None
        platform.bench.cache.remember(record.to_conversation(), time.monotonic())
        platform.send(state_event("c", "CLOSED", T0 + 1))
        await platform.done()
        assert platform.bench.cache.by_conversation("c", time.monotonic()) is None


async def test_a_record_nobody_can_read_costs_its_own_event_and_no_other(
    vhost_url: str, store: Store, database: str
) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        records = platform.bench.store.collection("conversations")
        await records.insert_one({"_id": "odd", "state": "CLOSED", "channelSessionUpdatedAt": 5})
        platform.send(state_event("odd", "ACTIVE"), state_event("c", "ACTIVE"))
        await platform.done()
        assert platform.is_live("c")
        ((_, letter, _),) = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 1)
        assert letter.headers["cim-code"] == "unreadable_record"
        assert "channelSessionUpdatedAt" in letter.headers["cim-detail"]
        assert letter.headers["cim-conversation-id"] == "odd"


async def test_somebody_else_s_unique_index_costs_its_own_event_and_no_other(
    vhost_url: str, store: Store, database: str
) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        await platform.bench.store.collection("conversations").create_index([("customerId", 1)], unique=True)
        platform.send(state_event("first", "ACTIVE"), state_event("second", "ACTIVE"))
        platform.send(state_event("third", "ACTIVE", customer={"_id": "another"}))
        await platform.done()
        assert platform.is_live("first")
        assert platform.is_live("third")
        ((_, letter, _),) = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 1)
        assert (letter.headers["cim-code"], letter.headers["cim-conversation-id"]) == ("store_rejected", "second")


@pytest.mark.slow
async def test_an_exchange_that_the_broker_refuses_holds_only_its_own_conversation(
    vhost_url: str, store: Store, database: str, broker: Broker
) -> None:
    vhost = urlsplit(vhost_url).path[1:]
    broker.management.create_user("narrow", "pw")
    broker.management.set_permissions("narrow", vhost)
    url = vhost_url.replace("guest:guest@", "narrow:pw@")
    async with lifecycle_consumer(url, store, database) as platform:
        broker.management.set_permissions("narrow", vhost, configure=r"^conversation\.good.*$|^listener.*")
        platform.send(*(state_event(f"good-{number}", "ACTIVE") for number in range(70)), state_event("bad", "ACTIVE"))
        platform.send(*(state_event(f"good-{number}", "ACTIVE") for number in range(70, 80)))
        await eventually_async(lambda: platform.settled == platform.sent - 1, "all but the refused one")
        assert platform.is_live("good-79")
        assert ("conversation_exchange_refused", "bad") in [
            (what, facts["conversation_id"]) for what, facts in platform.bench.reported.warnings
        ]
        broker.management.set_permissions("narrow", vhost)
        await platform.done()
        assert platform.is_live("bad")
    assert depth(vhost_url, "cim.dead-letters") == 0


async def test_an_exchange_of_another_type_is_not_ours_and_is_neither_bound_nor_deleted(
    vhost_url: str, store: Store, database: str
) -> None:
    with plain(vhost_url) as channel:
        channel.exchange_declare("conversation.taken", "topic", durable=True)
    async with lifecycle_consumer(vhost_url, store, database, grace_ms=0) as platform:
        platform.send(state_event("taken", "ACTIVE"), state_event("taken", "CLOSED", T0 + 1))
        platform.send(state_event("ours", "ACTIVE"), state_event("ours", "CLOSED", T0 + 1))
        await platform.done()
        await eventually_async(lambda: not platform.has_exchange("ours"))
        record = await platform.record("taken")
        assert record is not None
        await eventually_async(lambda: said(platform, "conversation_exchange_kept", "taken"))
        assert platform.has_exchange("taken")


def said(platform: Platform, what: str, conversation_id: str) -> bool:
    return (what, conversation_id) in [
        (one, facts.get("conversation_id")) for one, facts in platform.bench.reported.warnings
    ]


@pytest.mark.slow
async def test_while_the_store_is_away_nothing_is_in_hand_and_lost_connections_cost_no_event(
    vhost_url: str, store: Store, database: str
) -> None:
    """Sixty events, the store away, the connection lost 24 times: the broker's limit is 20 deliveries."""
    with wire_proxy(store.uri) as proxy:
        async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
            platform.send(state_event("before", "ACTIVE"))
            await platform.done()
        away = proxy.on("find", "insert", "update", "ping", "hello", answer=error(91, "ShutdownInProgress"))
        with plain(vhost_url) as channel:
            for number in range(60):
                body = json.dumps(state_event(f"c-{number}", "ACTIVE")).encode()
                channel.basic_publish("cim.conversation-events", "any", body, pika.BasicProperties(delivery_mode=2))
        for _ in range(24):
            async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
                await eventually_async(platform.store_was_away, "the gate")
                await eventually_async(lambda: depth(vhost_url, "cim.conversation-events") == 60, "all handed back")
                cut(platform.bench.connection)
        away.end()
        async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
            await eventually_async(lambda: platform.settled == 60, "all events")
            records = await platform.registry.list(limit=100)
            assert len(records) == 61
            assert all(platform.is_live(record.id) for record in records)
    assert depth(vhost_url, "cim.dead-letters") == 0


async def test_a_store_that_only_reads_is_tried_with_what_it_failed_and_no_delivery_is_spent_on_that(
    vhost_url: str, store: Store, database: str
) -> None:
    with wire_proxy(store.uri) as proxy:
        async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
            sick = proxy.on("insert", "update", answer=error(91, "ShutdownInProgress"))
            platform.send(*(state_event(f"c-{number}", "ACTIVE") for number in range(60)))
            await eventually_async(lambda: sick.count >= 6, "some tries")
            assert not platform.bench.gate.is_open
            await eventually_async(lambda: depth(vhost_url, "cim.conversation-events") == 60, "all handed back")
            sick.end()
            await platform.done()
            assert platform.bench.reported.down == ["store store_unavailable"]
            assert platform.most_deliveries <= 2
            assert platform.is_live("c-59")


@pytest.mark.parametrize("code", [133, 365, 16500, 1, 8])
async def test_a_sick_store_costs_no_event(vhost_url: str, store: Store, database: str, code: int) -> None:
    with wire_proxy(store.uri) as proxy:
        async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
            sick = proxy.on("insert", "update", answer=write_error(code))
            platform.send(state_event("c", "ACTIVE"))
            await eventually_async(lambda: sick.count >= 4, "some tries")
            assert depth(vhost_url, "cim.dead-letters") == 0
            platform.send(*(state_event(f"c-{number}", "ACTIVE") for number in range(40)))
            count = sick.count
            await eventually_async(lambda: sick.count >= count + 4, "more tries")
            sick.end()
            await platform.done()
            assert platform.is_live("c")
            assert platform.is_live("c-39")
    assert depth(vhost_url, "cim.dead-letters") == 0


async def test_an_event_that_alone_fails_for_an_unknown_reason_is_dead_after_its_tries(
    vhost_url: str, store: Store, database: str
) -> None:
    with wire_proxy(store.uri) as proxy:
        async with lifecycle_consumer(vhost_url, store, database, uri=proxy.uri) as platform:
            proxy.on("insert", "update", answer=write_error(1, lambda one: "poison" in str(one)))
            platform.send(state_event("poison", "ACTIVE"))

            async def others() -> bool:
                platform.send(state_event(f"c-{platform.sent}", "ACTIVE"))
                return depth(vhost_url, "cim.dead-letters") == 1

            await eventually_async(others, "a letter")
            ((_, letter, _),) = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 1)
            assert letter.headers["cim-conversation-id"] == "poison"
            assert letter.headers["cim-attempt"] == 3
            await platform.done()


async def test_an_exception_nobody_foresaw_costs_its_own_event_after_its_tries(
    vhost_url: str, store: Store, database: str
) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.registry.bug_for = "poison"
        platform.send(state_event("poison", "ACTIVE"), state_event("c", "ACTIVE"))
        await eventually_async(lambda: platform.settled == 1)
        assert platform.is_live("c")

        async def others() -> bool:
            platform.send(state_event(f"c-{platform.sent}", "ACTIVE"))
            return depth(vhost_url, "cim.dead-letters") == 1

        await eventually_async(others, "a letter")
        ((_, letter, _),) = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 1)
        assert (letter.headers["cim-code"], letter.headers["cim-attempt"]) == ("unexpected_error", 3)


async def test_a_state_nobody_knows_is_active_and_said_once(vhost_url: str, store: Store, database: str) -> None:
    async with lifecycle_consumer(vhost_url, store, database) as platform:
        platform.send(state_event("a", "PARKED"), state_event("b", "PARKED"), state_event("c", "ACTIVE"))
        await platform.done()
        assert platform.is_live("a")
        states = [facts["state"] for what, facts in platform.bench.reported.warnings if "state" in what]
        assert states == ["PARKED"]
