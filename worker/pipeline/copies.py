"""Copies of deliveries: retries, dead letters and what waits for the store.

A delivery is settled when its copy is confirmed, and only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from worker import contract
from worker.dead_letters.envelope import dead_letter, retry_copy, waiting_copy
from worker.dead_letters.provenance import attempt_of, note_refusal, refused_before
from worker.flow.confirmed import pause_after_refusal
from worker.flow.lane import Lane
from worker.outcome import Outcome
from worker.pipeline.retry import Again, Verdict
from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.flow.tasks import Crash
    from worker.pipeline.order import KeyOrder
    from worker.pipeline.ports import StoredBecause, Tracing
    from worker.pipeline.retry import RetryPolicy
    from worker.pipeline.settlement import Settlement
    from worker.ports import Clock, Delivery, EventPublisher, Outgoing, Reporter


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy that has to be confirmed before its delivery is settled."""

    delivery: Delivery
    outgoing: Outgoing
    failure: Failure
    identity: Identity
    outcome: Outcome


class Copies:
    """Publishes copies until the broker has them."""

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        retry: RetryPolicy,
        settlement: Settlement,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
        new_id: Callable[[], str],
        bundle: int,
        bundle_bytes: int,
        tracing: Tracing | None = None,
        order: KeyOrder | None = None,
    ) -> None:
        """Publish in bundles of at most *bundle* copies and *bundle_bytes*. *order* holds retries in hand."""
        self._tracing = tracing
        self._order = order
        self._publisher = publisher
        self._retry = retry
        self._settlement = settlement
        self._clock = clock
        self._reporter = reporter
        self._new_id = new_id
        self._lane: Lane[_Copy] = Lane(
            "copies",
            self._publish,
            bundle=bundle,
            at_once=2,
            size_of=lambda copy: len(copy.outgoing.body),
            bundle_bytes=bundle_bytes,
            on_bug=crash.report,
        )

    def retry_or_give_up(self, delivery: Delivery, identity: Identity, failure: Failure) -> None:
        """Retry what may succeed later while tries are left; give up everything else."""
        match self._retry.after(failure, attempt_of(delivery), self._clock.monotonic()):
            case Again() as again:
                self._again(delivery, identity, failure, again)
            case Verdict.WAIT:
                self.wait(delivery, identity, failure)
            case Verdict.DEAD:
                self.dead_letter(delivery, identity, failure)

    def publish_once_more(self, delivery: Delivery, identity: Identity, failure: Failure) -> bool:
        """Retry an event that a subscriber's queue refused, once and at no cost; False when that was done before."""
        note_refusal(delivery)
        if refused_before(delivery) > 1:
            return False
        again = self._retry.once_more(attempt_of(delivery), self._clock.monotonic())
        self._again(delivery, identity, failure, again)
        return True

    def come_back_later(self, delivery: Delivery, identity: Identity, failure: Failure) -> None:
        """Retry at no cost a message that meets an outage which its neighbours do not."""
        again = self._retry.later(attempt_of(delivery), self._clock.monotonic())
        self._again(delivery, identity, failure, again)

    def wait(
        self,
        delivery: Delivery,
        identity: Identity,
        failure: Failure,
        *,
        suspected: bool = False,
        because: StoredBecause | None = None,
    ) -> None:
        """Let a delivery wait for the store in the waiting room, its attempt unspent.

        *suspected* says that the store failed for this very message; *because* why it goes to the store, if that is
        decided: where order is kept later ones may have arrived when it comes back, so it is stored all the same.
        """
        one = self._to_wait(delivery, identity, failure, suspected=suspected, because=because)
        # A suspected one in hand would be the only one to probe with: then it could hold the gate.
        may_stay = delivery.queue == contract.WAITING and not suspected
        if may_stay and self._order and self._order.wait(delivery, one.outgoing, partial(self._lane.add, [one])):
            self._settlement.waits_in_hand(delivery, failure, identity)
            return
        self._trace(delivery, "", contract.WAITING)
        self._lane.add([one])

    def dead_letter(self, delivery: Delivery, identity: Identity, failure: Failure) -> None:
        """Give a delivery up: its letter goes to the dead letters."""
        self._trace(delivery, contract.DEAD_LETTERS, "")
        letter = dead_letter(delivery, failure, identity, now=self._clock.now_ms(), copy_id=self._new_id())
        self._lane.add([_Copy(delivery, letter, failure, identity, Outcome.DEAD)])

    def _again(self, delivery: Delivery, identity: Identity, failure: Failure, again: Again) -> None:
        if self._order is None or not self._hold(self._order, delivery, identity, failure, again):
            self._trace(delivery, "", contract.retry_queue(again.delay))
            self._lane.add([self._to_retry(delivery, identity, failure, again)])

    def _hold(self, order: KeyOrder, delivery: Delivery, identity: Identity, failure: Failure, again: Again) -> bool:
        """Have a retry wait in hand instead, in front of the later ones of its key; False when it may not."""
        one = self._to_retry(delivery, identity, failure, again)
        is_held = order.hold(delivery, one.outgoing, again.delay, partial(self._lane.add, [one]))
        if is_held:
            self._settlement.held(delivery, failure, identity)
        return is_held

    def _to_wait(
        self,
        delivery: Delivery,
        identity: Identity,
        failure: Failure,
        *,
        suspected: bool,
        because: StoredBecause | None,
    ) -> _Copy:
        now, copy_id = self._clock.now_ms(), self._new_id()
        reason = None if because is None or self._order is None else because.value
        copy = waiting_copy(delivery, failure, now=now, copy_id=copy_id, suspected=suspected, because=reason)
        return _Copy(delivery, copy, failure, identity, Outcome.WAITING)

    def _to_retry(self, delivery: Delivery, identity: Identity, failure: Failure, again: Again) -> _Copy:
        now, copy_id = self._clock.now_ms(), self._new_id()
        copy = retry_copy(delivery, failure, again.delay, attempt=again.attempt, now=now, copy_id=copy_id)
        return _Copy(delivery, copy, failure, identity, Outcome.RETRY)

    def _trace(self, delivery: Delivery, exchange: str, routing_key: str) -> None:
        if self._tracing is not None:
            self._tracing.sends(delivery, exchange, routing_key)

    async def cancel(self) -> None:
        """Abandon all that is not confirmed; its deliveries come again."""
        await self._lane.cancel()

    async def _publish(self, copies: list[_Copy]) -> None:
        """Publish a bundle; settle what is confirmed, and add again what the broker refused."""
        started = self._clock.monotonic()
        confirmations = await self._publisher.publish([copy.outgoing for copy in copies])
        self._reporter.published("copies", confirmations, self._clock.monotonic() - started)
        refused = []
        for copy, confirmation in zip(copies, confirmations, strict=True):
            if confirmation is Confirmation.CONFIRMED:
                self._settlement.settle_failed(copy.delivery, copy.outcome, copy.failure, copy.identity, copy.outgoing)
            elif confirmation is not Confirmation.UNKNOWN:
                refused.append((copy, confirmation))
        if refused:
            await pause_after_refusal([(copy.outgoing, why) for copy, why in refused], self._reporter)
            self._lane.add(copy for copy, _ in refused)
