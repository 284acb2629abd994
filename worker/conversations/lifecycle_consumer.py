"""Keeps the registry and the conversation exchanges in step with what the platform says about its conversations."""

from __future__ import annotations

import asyncio
import heapq
from functools import partial
from typing import TYPE_CHECKING

from worker.cim import Identity
from worker.codes import Code, FailureClass
from worker.conversations.conversation import UNKNOWN_STATE, ConversationRecord
from worker.conversations.lifecycle import Ignored, LifecycleChange, parse_lifecycle
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.provenance import attempt_of
from worker.failure import Failure, StoreRefused, classify
from worker.flow.confirmed import publish_until_confirmed
from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.conversations.cache import ConversationCache
    from worker.conversations.ports import ConversationExchangePort, RegistryPort
    from worker.flow.gate import Gate
    from worker.ports import Clock, Consumer, Delivery, EventPublisher, Reporter

_PREFETCH = 100
_OPERATOR_PAUSE_SECONDS = 10.0
"""Pause after the broker refused an exchange operation; ingress goes on meanwhile."""
_SWEEP_BACK_MS = 24 * 3600 * 1000
"""How far back a new keeper looks for closed conversations whose exchange nobody deleted."""


async def converge(
    record: ConversationRecord, registry: RegistryPort, exchanges: ConversationExchangePort
) -> ConversationRecord:
    """Make the exchange match the registry, and look again: another process may have changed it meanwhile.

    Idempotent. A conversation whose state nobody has told yet gets no exchange. Returns the record as it was left.
    """
    while True:
        if not record.active:
            await exchanges.unbind(record.id)
        elif record.state.value != UNKNOWN_STATE:
            await exchanges.open(record.id)
        again = await registry.get(record.id)
        if not isinstance(again, ConversationRecord) or again.state == record.state:
            return record
        record = again


class LifecycleConsumer:
    """Consumes conversation events, one at a time and in order; of several keepers the broker lets one work."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        registry: RegistryPort,
        exchanges: ConversationExchangePort,
        publisher: EventPublisher,
        gate: Gate,
        cache: ConversationCache,
        grace_ms: int,
        clock: Clock,
        reporter: Reporter,
        new_id: Callable[[], str],
    ) -> None:
        self._consumer = consumer
        self._registry = registry
        self._exchanges = exchanges
        self._publisher = publisher
        self._gate = gate
        self._cache = cache
        self._grace_ms = grace_ms
        self._clock = clock
        self._reporter = reporter
        self._new_id = new_id
        self._to_delete: list[tuple[int, str]] = []
        self._changing = asyncio.Lock()
        """Held while exchanges are made to match the registry, so that no deletion hits one that was just reopened."""
        self._looked_back = False

    async def run(self) -> None:
        """Apply events until cancelled or the consumer has ended. Raises what the broker refuses."""
        await self._consumer.start(_PREFETCH)
        sweeper = asyncio.create_task(self._sweep(), name="conversation sweeper")
        try:
            while not self._consumer.cancelled.is_set():
                await self._consumer.wait_for_arrival()
                for delivery in self._consumer.take(_PREFETCH, 1 << 30):
                    if await self._handle(delivery):
                        self._consumer.settle(delivery)
        finally:
            await cancel_and_wait([sweeper])

    async def _handle(self, delivery: Delivery) -> bool:
        """Apply one event; return whether it may be settled."""
        change = parse_lifecycle(delivery.body, received_at=self._clock.now_ms())
        if isinstance(change, Ignored):
            return True
        if not isinstance(change, LifecycleChange):
            return await self._dead_letter(delivery, change.identity, Failure.of_problems(change.problems))
        while True:
            try:
                await self._gate.until_done(lambda: self._apply(change))
            except StoreRefused as error:
                identity = Identity(conversation_id=change.conversation_id)
                return await self._dead_letter(delivery, identity, error.failure)
            except Exception as error:
                failure = classify(error)
                if failure.failure_class is not FailureClass.OPERATOR:
                    raise
                self._reporter.warn("conversation_exchange_refused", code=failure.code.value, reason=str(error))
                if failure.code is Code.TOPOLOGY_MISMATCH:
                    # Somebody else's exchange has the name: its activities are stored, others must not wait.
                    return True
                await asyncio.sleep(_OPERATOR_PAUSE_SECONDS)
            else:
                return True

    async def _apply(self, change: LifecycleChange) -> None:
        record = await self._registry.apply(change)
        self._cache.forget(change.conversation_id)
        if change.state is None:
            return
        async with self._changing:
            record = await converge(record, self._registry, self._exchanges)
        active = record.active
        self._reporter.info("conversation", conversation_id=record.id, state=record.state.value, active=active)
        await self._look_back()
        if not active:
            heapq.heappush(self._to_delete, (self._clock.now_ms() + self._grace_ms, record.id))

    async def _dead_letter(self, delivery: Delivery, identity: Identity, failure: Failure) -> bool:
        letter = dead_letter(delivery, failure, identity, now=self._clock.now_ms(), copy_id=self._new_id())
        confirmed = await publish_until_confirmed(self._publisher, [letter], self._reporter)
        if confirmed:
            self._reporter.letter(failure, identity, attempt_of(delivery), retry=False)
        return confirmed

    async def _look_back(self) -> None:
        """Take over, once, the deletions that a keeper before us may not have lived to do."""
        if self._looked_back:
            return
        now = self._clock.now_ms()
        for record in await self._registry.closed_since(now - _SWEEP_BACK_MS):
            heapq.heappush(self._to_delete, (now + self._grace_ms, record.id))
        self._looked_back = True

    async def _sweep(self) -> None:
        """Delete exchanges whose grace is over, unless the conversation was opened again."""
        while True:
            await asyncio.sleep(1)
            while self._to_delete and self._to_delete[0][0] <= self._clock.now_ms():
                _, conversation_id = heapq.heappop(self._to_delete)
                try:
                    await self._gate.until_done(partial(self._delete_if_closed, conversation_id))
                except Exception as error:  # noqa: BLE001 - one exchange that cannot be deleted must not keep the others
                    failure = classify(error)
                    self._reporter.warn("conversation_exchange_kept", code=failure.code.value, reason=str(error))

    async def _delete_if_closed(self, conversation_id: str) -> None:
        async with self._changing:
            record = await self._registry.get(conversation_id)
            if isinstance(record, ConversationRecord) and not record.active:
                await self._exchanges.delete(conversation_id)
