"""Retries and dead letters: confirmed copies, after which, and only then, their deliveries are settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.dead_letters.envelope import dead_letter, retry_copy
from worker.dead_letters.provenance import attempt_of
from worker.flow.confirmed import pause_after_refusal
from worker.flow.lane import Lane
from worker.outcome import Outcome
from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.flow.tasks import Crash
    from worker.pipeline.retry import RetryPolicy
    from worker.pipeline.settlement import Settlement
    from worker.ports import Clock, Delivery, EventPublisher, Outgoing, Reporter


@dataclass(frozen=True, slots=True)
class _Copy:
    """A dead letter or a retry that has to be confirmed before its delivery is settled."""

    delivery: Delivery
    outgoing: Outgoing
    failure: Failure
    identity: Identity
    outcome: Outcome


class Copies:
    """Publishes retries and dead letters until the broker has them."""

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
    ) -> None:
        """Publish in bundles of at most *bundle* copies and *bundle_bytes*."""
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
        again = self._retry.after(failure, attempt_of(delivery), self._clock.monotonic())
        if again is None:
            self.dead_letter(delivery, identity, failure)
            return
        copy = retry_copy(
            delivery,
            failure,
            again.delay,
            attempt=again.attempt,
            now=self._clock.now_ms(),
            copy_id=self._new_id(),
        )
        self._lane.add([_Copy(delivery, copy, failure, identity, Outcome.RETRY)])

    def dead_letter(self, delivery: Delivery, identity: Identity, failure: Failure) -> None:
        """Give a delivery up: its letter goes to the dead letters."""
        letter = dead_letter(delivery, failure, identity, now=self._clock.now_ms(), copy_id=self._new_id())
        self._lane.add([_Copy(delivery, letter, failure, identity, Outcome.DEAD)])

    async def cancel(self) -> None:
        """Abandon all that is not confirmed; its deliveries come again."""
        await self._lane.cancel()

    async def _publish(self, copies: list[_Copy]) -> None:
        """Publish a bundle; settle what is confirmed, and add again what the broker refused."""
        confirmations = await self._publisher.publish([copy.outgoing for copy in copies])
        refused = []
        for copy, confirmation in zip(copies, confirmations, strict=True):
            if confirmation is Confirmation.CONFIRMED:
                self._settlement.settle_failed(copy.delivery, copy.outcome, copy.failure, copy.identity)
            elif confirmation is not Confirmation.UNKNOWN:
                refused.append((copy, confirmation))
        if refused:
            await pause_after_refusal([(copy.outgoing, why) for copy, why in refused], self._reporter)
            self._lane.add(copy for copy, _ in refused)
