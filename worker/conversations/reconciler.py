"""Exchanges follow the registry's state, not only its events: compared at start, after a repair, and when one fails.

One process of the pool holds the seat and compares everything; each process converges what its own events met.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from worker.codes import Disposition, FailureClass
from worker.conversations.conversation import ConversationRecord, ConversationState, Fact
from worker.conversations.lifecycle import LifecycleChange
from worker.failure import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from worker.conversations.convergence import Convergence
    from worker.conversations.conversation import UnreadableRecord
    from worker.conversations.ports import RegistryPort, Seat
    from worker.conversations.reaper import Reaper
    from worker.flow.gate import Gate
    from worker.ports import Clock, Reporter

_PAGE = 500
_AT_MOST_ONCE_IN_SECONDS = 10.0
_BUNDLE_SECONDS = 0.1
"""Conversations whose events came back are converged together, those of one such period at a time."""
_MAX_REMEMBERED = 20_000
_AGAIN_SECONDS = 10.0
_COMPARE_SECONDS = 3600.0
_REMINDER_SECONDS = 60.0


class ExchangeReconciler:
    """Converges conversations whose exchange may not match the registry."""

    def __init__(
        self,
        *,
        registry: RegistryPort,
        convergence: Convergence,
        reaper: Reaper,
        gate: Gate,
        seat: Seat,
        expiry_ms: int,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        """Close conversations of which nothing was heard for *expiry_ms*."""
        self._registry = registry
        self._convergence = convergence
        self._reaper = reaper
        self._gate = gate
        self._seat = seat
        self._expiry_ms = expiry_ms
        self._clock = clock
        self._reporter = reporter
        self._acted_at: dict[str, float] = {}
        self._pending: set[str] = set()
        self._is_pending = asyncio.Event()
        self._said_at = -_REMINDER_SECONDS

    def returned(self, conversation_id: str) -> None:
        """Say that a live event of this conversation came back: nobody listens, or its exchange is gone.

        Never blocks and never raises; acts at most once in ten seconds per conversation.
        """
        now = self._clock.monotonic()
        last = self._acted_at.pop(conversation_id, None)
        if last is not None and now - last < _AT_MOST_ONCE_IN_SECONDS:
            self._acted_at[conversation_id] = last
            return
        while len(self._acted_at) >= _MAX_REMEMBERED:
            del self._acted_at[next(iter(self._acted_at))]
        self._acted_at[conversation_id] = now
        self.owe(conversation_id)

    def owe(self, conversation_id: str) -> None:
        """Converge this conversation soon, and again until the broker lets us."""
        if len(self._pending) < _MAX_REMEMBERED:
            self._pending.add(conversation_id)
            self._is_pending.set()

    async def run(self) -> None:
        """Work until cancelled; an exception nobody foresaw ends a round, and the next one begins."""
        await asyncio.gather(self._rounds(self._converge_pending), self._rounds(self._compare_from_the_seat))

    async def _rounds(self, one: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await one()
            except Exception as error:  # noqa: BLE001 - nothing outside the pipeline may end a process
                self._say_failed(classify(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    def _say_failed(self, failure: Failure) -> None:
        """Say once a minute why; the end of a connection is reported by who watches it."""
        now = self._clock.monotonic()
        if failure.failure_class is FailureClass.OUTAGE or now - self._said_at < _REMINDER_SECONDS:
            return
        self._said_at = now
        self._reporter.warn("exchanges_not_reconciled", code=failure.code.value, reason=failure.detail)

    async def _converge_pending(self) -> None:
        await self._is_pending.wait()
        await asyncio.sleep(_BUNDLE_SECONDS)
        self._is_pending.clear()
        pending, self._pending = self._pending, set()
        try:
            refused = await self._gate.until_done(partial(self._converge, pending))
        except Exception:  # nobody else would converge them before their next event
            self._pending |= pending
            self._is_pending.set()
            raise
        if refused:
            self._pending |= refused.keys()
            await asyncio.sleep(_AGAIN_SECONDS)
            self._is_pending.set()

    async def _converge(self, conversation_ids: Collection[str]) -> dict[str, Failure]:
        records = await self._registry.read(conversation_ids)
        converged = await self._convergence.converge(records.values())
        return {key: failure for key, failure in converged.failures.items() if _may_work_later(failure)}

    # -- the seat -----------------------------------------------------------------------------------------------------

    async def _compare_from_the_seat(self) -> None:
        """Compare when the seat is free, when somebody asks for it, and every hour."""
        if not await self._seat.take():
            await asyncio.sleep(_AGAIN_SECONDS)
            return
        await self._compare()
        while await self._seat.wait(_COMPARE_SECONDS):
            await self._compare()

    async def _compare(self) -> None:
        """Open the exchange of every active conversation, close those that expired, find leftovers of closed ones."""
        started = self._clock.monotonic()
        count = refused = 0
        page = await self._active("")
        while page:
            records = [record for record in page if isinstance(record, ConversationRecord)]
            await self._close_expired(records)
            failures = await self._gate.until_done(partial(self._converge, [record.id for record in records]))
            count += len(records)
            refused += len(failures)
            page = await self._active(page[-1].id)
        self._reaper.look_back()
        seconds = round(self._clock.monotonic() - started, 2)
        self._reporter.info("exchanges_reconciled", active=count, refused=refused, seconds=seconds)

    async def _active(self, after: str) -> Sequence[ConversationRecord | UnreadableRecord]:
        return await self._gate.until_done(partial(self._registry.list, active=True, limit=_PAGE, after=after))

    async def _close_expired(self, records: Sequence[ConversationRecord]) -> None:
        now = self._clock.now_ms()
        last_heard = {record.id: max(record.heard_at, record.updated_at) for record in records}
        expired = [key for key, at in last_heard.items() if 0 < at < now - self._expiry_ms]
        if not expired:
            return
        closed = Fact(str(ConversationState.CLOSED), now)
        changes = [LifecycleChange(conversation_id, "expired", now, state=closed) for conversation_id in expired]
        results = await self._gate.until_done(partial(self._registry.apply_each, changes))
        for result in results:
            if not isinstance(result, Failure):
                self._reaper.changed(result.record)
        self._reporter.info("conversations_expired", count=len(expired), first=expired[0])


def _may_work_later(failure: Failure) -> bool:
    return failure.failure_class.disposition is not Disposition.DEAD
