"""What goes to the hub: published while the broker confirms, and kept until it does, so that nothing else waits for it.

A batch gives up its turn when confirms stay out: what needs the store, or a lookup, goes on. What is for the hub and
came later is kept then as the bytes that arrived; only a few events are kept written. So no more bytes of events
wait for a confirm than the batches in progress may have, and the window bounds the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from worker.codes import Code, Stage
from worker.failure import Failure, classify
from worker.flow.tasks import cancel_and_wait
from worker.outcome import Outcome
from worker.pipeline.ports import StoredBecause
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.flow.tasks import Crash
    from worker.pipeline.copies import Copies
    from worker.pipeline.finder import ConversationFinder
    from worker.pipeline.inbound import Inbound
    from worker.pipeline.reading import Reading
    from worker.pipeline.settlement import Settlement
    from worker.pipeline.storing import Storing
    from worker.ports import Clock, EventPublisher, Reporter

SEND_BYTES: Final = 1024 * 1024
"""Bytes after which events are published before more are made: an event may be as large as its conversation's session,
and a parsed message takes many times its bytes."""
_WRITTEN_BYTES: Final = 2 * 1024 * 1024
"""Events that may be kept written; those beyond are written again when it is their turn."""
_LATE_SECONDS: Final = 0.1
"""Publishes are in progress and none has ended for this long: others need not wait for them."""


class Publishing:
    """Brings messages to the hub; what nobody takes there goes to the store. Lives as long as one broker session."""

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        reading: Reading,
        finder: ConversationFinder,
        storing: Storing,
        copies: Copies,
        settlement: Settlement,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
        bundle: int,
        at_once: int,
        on_returned: Callable[[str], None],
    ) -> None:
        """Have *at_once* publishes in progress; of what was kept, publish at most *bundle* messages in one.

        *on_returned* is told the id of an active conversation whose exchange took no event: it may not be bound.
        """
        self._publisher = publisher
        self._reading = reading
        self._finder = finder
        self._storing = storing
        self._copies = copies
        self._settlement = settlement
        self._clock = clock
        self._reporter = reporter
        self._crash = crash
        self._bundle = bundle
        self._at_once = at_once
        self._on_returned = on_returned
        self._in_progress = 0
        self._moved_at = 0.0
        self._kept: deque[Inbound] = deque()
        self._written_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_late(self) -> bool:
        """Whether the confirms stay out, so that what needs none should not wait for them."""
        return self._in_progress > 0 and self._clock.monotonic() - self._moved_at > _LATE_SECONDS

    @property
    def is_full(self) -> bool:
        """Whether so many events are kept written that no more should be: they are written when it is their turn."""
        return self._written_bytes >= _WRITTEN_BYTES // 2

    async def publish(self, inbounds: Sequence[Inbound]) -> None:
        """Publish *inbounds* and return when each is settled or of unknown effect.

        Returns at once when they have to wait for their turn, as those without a written event do.
        """
        if not inbounds:
            return
        if self._kept or self._in_progress >= self._at_once or inbounds[-1].outgoing is None:
            self._keep(inbounds)
        else:
            await self._publish(inbounds)

    async def begin(self, inbounds: Sequence[Inbound]) -> None:
        """Do the same, but return after a moment when the confirms stay out: it goes on by itself."""
        if inbounds:
            await asyncio.wait([self._start(self.publish(inbounds))], timeout=_LATE_SECONDS)

    async def stop(self) -> None:
        """Abandon all that is in progress or kept; unsettled deliveries come again."""
        self._kept.clear()
        await cancel_and_wait(self._tasks)

    # -- publish --------------------------------------------------------------------------------------------------

    async def _publish(self, inbounds: Sequence[Inbound]) -> None:
        """Publish to the hub; what nobody takes goes to the store."""
        started = self._clock.monotonic()
        if not self._in_progress:
            self._moved_at = started
        self._in_progress += 1
        try:
            confirmations = await self._publisher.publish([_written(inbound) for inbound in inbounds])
        finally:
            self._in_progress -= 1
            self._moved_at = self._clock.monotonic()
        self._reporter.published("events", confirmations, self._moved_at - started)
        self._end(inbounds, confirmations)
        if Confirmation.UNKNOWN in confirmations:  # the connection is lost: what is kept comes again
            self._kept.clear()
        elif self._kept:
            self._start(self._publish_kept())

    def _end(self, inbounds: Sequence[Inbound], confirmations: Sequence[Confirmation]) -> None:
        """Settle what was confirmed, and store what was not taken."""
        confirmed, for_store = [], []
        for inbound, confirmation in zip(inbounds, confirmations, strict=True):
            if confirmation is Confirmation.CONFIRMED:
                confirmed.append(inbound)
            elif confirmation is not Confirmation.UNKNOWN and self._to_store(inbound, confirmation):
                for_store.append(inbound)
        self._settlement.settle_all(confirmed, Outcome.PUBLISHED)
        if for_store:
            self._storing.add(for_store)

    def _to_store(self, inbound: Inbound, confirmation: Confirmation) -> bool:
        """Say why an event that was not taken goes to the store; False when it is published once more instead."""
        conversation = inbound.conversation
        if confirmation is Confirmation.RETURNED:
            self._finder.forget(_written(inbound).routing_key)
            if conversation is not None:
                self._on_returned(conversation.id)
            inbound.stored_because = (
                StoredBecause.UNKNOWN_CONVERSATION if conversation is None else StoredBecause.NOBODY_LISTENS
            )
        elif confirmation is Confirmation.TOO_LARGE:
            inbound.stored_because = StoredBecause.EVENT_TOO_LARGE
        elif self._copies.publish_once_more(inbound.delivery, inbound.identity, Failure.of(Code.PUBLISH_REJECTED)):
            return False
        else:
            inbound.stored_because = StoredBecause.REFUSED_BY_SUBSCRIBER
        inbound.outgoing = None
        return True

    # -- keep -----------------------------------------------------------------------------------------------------

    def _keep(self, inbounds: Sequence[Inbound]) -> None:
        for inbound in inbounds:
            size = len(inbound.outgoing.body) if inbound.outgoing is not None else 0
            if self._written_bytes + size > _WRITTEN_BYTES:
                inbound.outgoing = None
            else:
                self._written_bytes += size
        self._kept.extend(inbounds)
        if not self._in_progress:
            self._start(self._publish_kept())

    async def _publish_kept(self) -> None:
        """Publish the first of what is kept. It is taken only now: what comes meanwhile must not overtake it."""
        if self._in_progress < self._at_once and (inbounds := self._next_kept()):
            await self._publish(inbounds)

    def _next_kept(self) -> list[Inbound]:
        """Take messages, up to a bundle and to the bytes that are sent in one go, and write their events."""
        taken: list[Inbound] = []
        size = 0
        while self._kept and len(taken) < self._bundle and size <= SEND_BYTES:
            inbound = self._kept.popleft()
            if inbound.outgoing is not None:
                self._written_bytes -= len(inbound.outgoing.body)
            elif not self._write_again(inbound):
                continue
            size += inbound.size
            taken.append(inbound)
        return taken

    def _write_again(self, inbound: Inbound) -> bool:
        try:
            inbound.outgoing = self._reading.event_of(inbound)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the neighbours
            self._copies.retry_or_give_up(inbound.delivery, inbound.identity, classify(error, Stage.TRANSLATE))
            return False
        return True

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="publish")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash.report(error)


def _written(inbound: Inbound) -> Outgoing:
    if inbound.outgoing is None:
        msg = "published before it was routed"
        raise AssertionError(msg)
    return inbound.outgoing
