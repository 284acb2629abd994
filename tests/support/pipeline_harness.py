"""A pipeline between fakes, or between what a test puts in their place."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import FakeClock, FakeDelivery, RecordingReporter
from tests.support.fakes import FakePublisher, FakeRegistry, FakeStore
from worker import contract
from worker.conversations.cache import ConversationCache
from worker.failure import Dependency
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage
from worker.flow.tasks import Crash
from worker.pipeline.copies import Copies
from worker.pipeline.finder import ConversationFinder
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.publishing import Publishing
from worker.pipeline.reading import Reading
from worker.pipeline.retry import RetryPolicy
from worker.pipeline.senders import Senders
from worker.pipeline.settlement import Settlement
from worker.pipeline.store_share import StoreShare
from worker.pipeline.storing import Storing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.pipeline.order import KeyOrder
    from worker.pipeline.settlement import Listener
    from worker.ports import Clock, Delivery, EventPublisher, Outgoing, Reporter


class PipelineHarness:
    """Make it on a running loop. Deliveries that were settled are in `settled`, in the order of settling."""

    def __init__(
        self,
        *,
        cache_ms: int = 60_000,
        max_attempts: int = 3,
        window: int = 200,
        max_message_bytes: int = 10_000,
        bundle: int = 5,
        at_once: int = 13,
        publisher: EventPublisher | None = None,
        store: Any = None,
        registry: Any = None,
        reporter: Reporter | None = None,
        senders: dict[str, frozenset[str]] | None = None,
        before: PipelineHarness | None = None,
        event_names: dict[str, str] | None = None,
        listeners: Sequence[Listener] = (),
        new_tracing: Callable[[Clock], Any] | None = None,
        order: KeyOrder | None = None,
    ) -> None:
        """Make a session; it follows the session *before* in the same process, when that is given."""
        self.publisher: Any = publisher or FakePublisher()
        self.store: Any = store or FakeStore()
        self.registry: Any = registry or FakeRegistry()
        self.reported: Any = reporter or RecordingReporter()
        self.clock = FakeClock()
        self.settled: list[Delivery] = []
        self.settling: Callable[[Delivery], None] = lambda _delivery: None
        self.returned: list[str] = []
        self.received = 0
        outage = Outage("store", address="fake", reporter=self.reported, clock=self.clock)
        self.lookups_gate, self.store_gate = (
            Gate(
                Dependency.STORE,
                work,
                outage=outage,
                backoff=Backoff(0.02, 0.1, random=lambda: 0.0),
                clock=self.clock,
            )
            for work in ("lookups", "activities")
        )
        if before is not None:
            self.clock, self.reported = before.clock, before.reported
            self.lookups_gate, self.store_gate = before.lookups_gate, before.store_gate
        self.cache = ConversationCache(max_size=100, ttl_ms=cache_ms)
        self.crash = Crash()
        ids = itertools.count()
        common: Any = {"clock": self.clock, "reporter": self.reported, "crash": self.crash, "bundle": bundle}
        tracing = new_tracing(self.clock) if new_tracing else None
        observers = [one for one in (tracing, order) if one is not None]
        settlement = Settlement(self.settle, self.reported, self.clock, listeners=listeners, observers=observers)
        reading = Reading(
            Senders(senders or {}, {"worker"} if senders else {None}),
            max_message_bytes=max_message_bytes,
            event_names=event_names or {},
            tracing=tracing,
        )
        copies = Copies(
            publisher=self.publisher,
            retry=RetryPolicy(("1s", "10s"), max_attempts, per_second=1000, now=self.clock.monotonic()),
            settlement=settlement,
            new_id=lambda: f"copy-{next(ids)}",
            bundle_bytes=100_000,
            tracing=tracing,
            order=order,
            **common,
        )
        self.share = StoreShare(self.clock, self.crash)
        self.share.set_window(window)
        self.storing = Storing(
            store=self.store,
            gate=self.store_gate,
            copies=copies,
            settlement=settlement,
            reading=reading,
            share=self.share,
            **common,
        )
        finder = ConversationFinder(registry=self.registry, cache=self.cache, gate=self.lookups_gate, **common)
        publishing = Publishing(
            publisher=self.publisher,
            reading=reading,
            finder=finder,
            storing=self.storing,
            copies=copies,
            settlement=settlement,
            at_once=at_once,
            on_returned=self.returned.append,
            **common,
        )
        self.pipeline = Pipeline(
            reading=reading,
            finder=finder,
            publishing=publishing,
            storing=self.storing,
            copies=copies,
            share=self.share,
            **common,
        )

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            assert not any(one is other for other in self.settled), "settled twice"
            self.settled.append(one)
            self.settling(one)

    async def process(self, *batch: FakeDelivery) -> None:
        """Process a batch and let its lanes run as far as they get."""
        self.received += len(batch)
        await self.pipeline.process(batch)
        for _ in range(30):
            await asyncio.sleep(0)
        assert not self.crash.happened.done()

    @property
    def outcomes(self) -> Counter[str]:
        totals: Counter[str] = Counter()
        for (outcome, _), count in self.reported.outcomes.items():
            totals[outcome] += count
        assert sum(totals.values()) == len(self.settled), "an outcome for each settled delivery, and for no other"
        return totals

    def assert_settled(self, *batch: FakeDelivery) -> None:
        assert set(map(id, batch)) == set(map(id, self.settled))

    def at(self, routing_key: str, exchange: str = contract.HUB) -> list[Outgoing]:
        return [one for one in self.publisher.taken if (one.exchange, one.routing_key) == (exchange, routing_key)]

    @property
    def waiting(self) -> list[Outgoing]:
        """Copies in the waiting room."""
        return self.at(contract.WAITING, "")

    @property
    def letters(self) -> list[Outgoing]:
        return [one for one in self.publisher.taken if one.exchange == contract.DEAD_LETTERS]

    @property
    def codes(self) -> list[object]:
        return [(one.headers or {})[contract.CODE] for one in self.letters]
