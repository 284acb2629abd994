"""Exchanges follow the registry's state on a real broker and store, whatever became of them meanwhile."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pika.exceptions

from tests.support.amqp import connected, plain
from tests.support.eventually import eventually_async
from tests.support.workbench import Workbench, running, workbench
from worker.conversations.convergence import Convergence
from worker.conversations.conversation import Fact
from worker.conversations.lifecycle import LifecycleChange
from worker.conversations.reaper import Reaper
from worker.conversations.reconciler import ExchangeReconciler
from worker.mongo.registry import Registry
from worker.rabbit.exchanges import ConversationExchanges, ReconcilerSeat
from worker.rabbit.topology import apply, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.services.services import Store

DAY_MS = 24 * 3600 * 1000


@dataclass
class World:
    """A reconciler at work, and what it works on."""

    url: str
    bench: Workbench
    registry: Registry
    exchanges: ConversationExchanges
    reconciler: ExchangeReconciler

    def is_live(self, conversation_id: str) -> bool:
        """Whether the hub routes to this conversation's exchange."""
        with plain(self.url) as channel:
            queue = channel.queue_declare("", exclusive=True).method.queue
            try:
                channel.queue_bind(queue, f"conversation.{conversation_id}")
                channel.basic_publish("cim.conversations", conversation_id, b"?", mandatory=True)
            except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.UnroutableError):
                return False
            return True

    def has_exchange(self, conversation_id: str) -> bool:
        with plain(self.url) as channel:
            try:
                channel.exchange_declare(f"conversation.{conversation_id}", passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            return True

    def compared(self) -> int:
        return sum(what == "exchanges_reconciled" for what, _ in self.bench.reported.infos)


@asynccontextmanager
async def world(url: str, store: Store, database: str, *, expiry_days: int = 30) -> AsyncIterator[World]:
    async with workbench(url, store.uri, database) as bench:
        registry = Registry(bench.store)
        exchanges = ConversationExchanges(bench.connection)
        convergence = Convergence(registry, exchanges)
        reaper = Reaper(
            registry=registry,
            convergence=convergence,
            gate=bench.gate,
            grace_ms=0,
            clock=bench.clock,
            reporter=bench.reported,
        )
        reconciler = ExchangeReconciler(
            registry=registry,
            convergence=convergence,
            reaper=reaper,
            gate=bench.gate,
            seat=ReconcilerSeat(bench.connection, time.monotonic),
            expiry_ms=expiry_days * DAY_MS,
            clock=bench.clock,
            reporter=bench.reported,
        )
        async with running(reaper.run()), running(reconciler.run()):
            yield World(url, bench, registry, exchanges, reconciler)


def told(conversation_id: str, state: str, at: int | None = None) -> LifecycleChange:
    at = at or int(time.time() * 1000)
    return LifecycleChange(conversation_id, "TOPIC_STATE_CHANGED", at, state=Fact(state, at))


async def test_at_start_every_active_conversation_gets_its_exchange_back(
    vhost_url: str, store: Store, database: str
) -> None:
    """The virtual host was recreated; one record was put there by hand."""
    async with workbench(vhost_url, store.uri, database) as bench:
        registry = Registry(bench.store)
        await registry.apply_each([told(f"c-{number:04}", "ACTIVE") for number in range(600)])
        await registry.apply_each([told("closed", "CLOSED"), told("odd", "PARKED")])
        await bench.store.collection("conversations").insert_one({"_id": "by-hand", "state": "ACTIVE"})
        await bench.store.collection("conversations").insert_one({"_id": 7, "state": "ACTIVE"})
    async with world(vhost_url, store, database) as made:
        await eventually_async(made.compared, "the comparison")
        for conversation_id in ("c-0000", "c-0599", "odd", "by-hand"):
            assert made.is_live(conversation_id)
        assert not made.has_exchange("closed")


async def test_after_the_hub_was_recreated_whoever_repaired_it_has_the_exchanges_bound_again(
    vhost_url: str, store: Store, database: str
) -> None:
    async with world(vhost_url, store, database) as made:
        await made.registry.apply(told("c", "ACTIVE"))
        await made.exchanges.open(["c"])
        await eventually_async(made.compared, "the first comparison")
        with plain(vhost_url) as channel:
            channel.exchange_delete("cim.conversations")
        async with connected(vhost_url) as connection:
            await apply(connection, wanted((("1s", 1),), 20, connection.server_version))
        assert not made.is_live("c")
        with plain(vhost_url) as channel:
            channel.basic_publish("", "cim.reconciler", b"")
        await eventually_async(lambda: made.is_live("c"), "the binding")


async def test_an_exchange_that_is_gone_comes_back_after_an_event_was_returned(
    vhost_url: str, store: Store, database: str
) -> None:
    async with world(vhost_url, store, database) as made:
        await eventually_async(made.compared, "the first comparison")
        await made.registry.apply_each([told("c", "ACTIVE"), told("d", "ACTIVE"), told("closed", "CLOSED")])
        await made.exchanges.open(["c"])
        with plain(vhost_url) as channel:
            channel.exchange_delete("conversation.c")
        for conversation_id in ("c", "closed", "unknown", "c"):
            made.reconciler.returned(conversation_id)
        await eventually_async(lambda: made.is_live("c"), "the exchange")
        assert not made.has_exchange("closed")
        with plain(vhost_url) as channel:
            channel.exchange_delete("conversation.c")
        made.reconciler.returned("c")
        made.reconciler.returned("d")
        await eventually_async(lambda: made.is_live("d"), "the other exchange")
        assert not made.has_exchange("c"), "at most once in ten seconds"


async def test_a_conversation_nobody_heard_of_for_long_is_closed(vhost_url: str, store: Store, database: str) -> None:
    now = int(time.time() * 1000)
    async with workbench(vhost_url, store.uri, database) as bench:
        registry = Registry(bench.store)
        await registry.apply_each([told("old", "ACTIVE", now - 31 * DAY_MS), told("new", "ACTIVE", now - 29 * DAY_MS)])
        late = replace(told("late", "ACTIVE", now - 90 * DAY_MS), received_at=now)
        await registry.apply(late)
        await bench.store.collection("conversations").insert_one({"_id": "by-hand", "state": "ACTIVE"})
        await ConversationExchanges(bench.connection).open(["old"])
    async with world(vhost_url, store, database) as made:
        await eventually_async(made.compared, "the comparison")
        records = await made.registry.read(["old", "new", "late", "by-hand"])
        states = {key: record.state.value for key, record in records.items()}
        assert states == {"old": "CLOSED", "new": "ACTIVE", "late": "ACTIVE", "by-hand": "ACTIVE"}
        await eventually_async(lambda: not made.has_exchange("old"), "the deletion")


async def test_leftovers_of_closed_conversations_are_found_whenever_they_were_closed(
    vhost_url: str, store: Store, database: str
) -> None:
    long_ago = int(time.time() * 1000) - 400 * DAY_MS
    async with workbench(vhost_url, store.uri, database) as bench:
        registry = Registry(bench.store)
        names = [f"c-{number}" for number in range(700)]
        await registry.apply_each([told(name, "ACTIVE", long_ago) for name in names])
        await registry.apply_each([told(name, "CLOSED", long_ago + 1) for name in names])
        await ConversationExchanges(bench.connection).open(["c-0", "c-699"])
    async with world(vhost_url, store, database) as made:
        await eventually_async(lambda: not made.has_exchange("c-0") and not made.has_exchange("c-699"), "the deletion")

        async def none_left() -> bool:
            return not await made.registry.with_exchange(active=False, limit=10, after="")

        await eventually_async(none_left, "the registry")


async def test_one_process_of_the_pool_compares_and_another_takes_its_place(vhost_url: str) -> None:
    async with connected(vhost_url) as one, connected(vhost_url) as other:
        first, second = ReconcilerSeat(one, time.monotonic), ReconcilerSeat(other, time.monotonic)
        assert await first.take()
        assert not await second.take()
        await one.close()

        async def taken() -> bool:
            return await second.take()

        await eventually_async(taken, "the seat")
