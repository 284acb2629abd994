"""Retries and dead letters: confirmed copies, after which, and only then, their deliveries are settled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.codes import FailureClass
from worker.dead_letters.envelope import Identity, Reason, attempt_of, dead_letter, retry_copy
from worker.lane import Lane
from worker.outcome import Outcome
from worker.ports import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.accounts import Accounts, Clock
    from worker.failure import Failure
    from worker.ports import Delivery, EventPublisher, Outgoing
    from worker.retry import RetryBudget, RetryPolicy

_REFUSED_PAUSE_SECONDS = 0.5
"""Pause before a copy that the broker refused (its queue is full, or gone) is published again."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A dead letter or a retry that has to be confirmed before its delivery is settled."""

    delivery: Delivery
    received_at: float
    outgoing: Outgoing
    reason: Reason
    identity: Identity
    outcome: Outcome


class Copies:
    """Decides between another try and giving up, and publishes the copy until the broker has it."""

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        retry: RetryPolicy,
        budget: RetryBudget,
        clock: Clock,
        accounts: Accounts,
        settle: Callable[[Any], None],
        new_id: Callable[[], str],
        bundle: int,
        bundle_bytes: int,
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """Publish in bundles of at most *bundle* copies and *bundle_bytes*; *on_bug* hears what nobody foresaw."""
        self._publisher = publisher
        self._retry = retry
        self._budget = budget
        self._clock = clock
        self._accounts = accounts
        self._settle = settle
        self._new_id = new_id
        self._lane: Lane[_Copy] = Lane(
            "copies",
            self._publish,
            bundle=bundle,
            at_once=2,
            size_of=lambda copy: len(copy.outgoing.body),
            bundle_bytes=bundle_bytes,
            on_bug=on_bug,
        )

    def fail(self, delivery: Delivery, received_at: float, identity: Identity, failure: Failure) -> None:
        """Retry what may succeed later while tries are left; give up everything else."""
        reason = Reason.of_failure(failure)
        attempt = attempt_of(delivery)
        again = failure.failure_class in {FailureClass.TRANSIENT, FailureClass.UNKNOWN, FailureClass.OUTAGE}
        delay = self._retry.tier_after(attempt) if again else None
        if delay is None:
            self.bury(delivery, received_at, identity, reason)
            return
        copy = retry_copy(
            delivery, reason, delay, attempt=attempt + 1, now=self._clock.now_ms(), copy_id=self._new_id()
        )
        self._lane.add([_Copy(delivery, received_at, copy, reason, identity, Outcome.RETRY)])

    def bury(self, delivery: Delivery, received_at: float, identity: Identity, reason: Reason) -> None:
        """Give a delivery up: its letter goes to the dead letters."""
        letter = dead_letter(delivery, reason, identity, now=self._clock.now_ms(), copy_id=self._new_id())
        self._lane.add([_Copy(delivery, received_at, letter, reason, identity, Outcome.DEAD)])

    async def _publish(self, copies: list[_Copy]) -> None:
        """Publish retries and dead letters until each is confirmed; only then are their deliveries settled."""
        retries = sum(copy.outcome is Outcome.RETRY for copy in copies)
        if retries:
            await asyncio.sleep(self._budget.seconds_until(retries, self._clock.monotonic()))
        receipts = await self._publisher.publish([copy.outgoing for copy in copies])
        refused = []
        for copy, receipt in zip(copies, receipts, strict=True):
            if receipt is Receipt.CONFIRMED:
                self._accounts.letter(
                    copy.reason, copy.identity, attempt_of(copy.delivery), retry=copy.outcome is Outcome.RETRY
                )
                self._settle(copy.delivery)
                seconds = self._clock.monotonic() - copy.received_at
                self._accounts.settled(copy.outcome, seconds, copy.reason.code)
            elif receipt is not Receipt.UNKNOWN:
                refused.append((copy, receipt))
        if refused:
            copy, receipt = refused[0]
            self._accounts.trouble(
                "copies_refused",
                count=len(refused),
                queue=copy.outgoing.routing_key or copy.outgoing.exchange,
                reason="the queue is missing: run `cim-worker topology apply`"
                if receipt is Receipt.RETURNED
                else "the queue is full",
            )
            await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
            self._lane.add(copy for copy, _ in refused)

    def set_aside(self, delivery: Delivery, received_at: float, identity: Identity, failure: Failure) -> None:
        """Let a delivery wait in a retry tier, its attempt unspent: a dependency is at fault, not the message."""
        reason = Reason.of_failure(failure)
        copy = retry_copy(
            delivery,
            reason,
            self._retry.outage_tier,
            attempt=attempt_of(delivery),
            now=self._clock.now_ms(),
            copy_id=self._new_id(),
        )
        self._lane.add([_Copy(delivery, received_at, copy, reason, identity, Outcome.RETRY)])

    async def cancel(self) -> None:
        """Abandon all that is not confirmed; its deliveries come again."""
        await self._lane.cancel()
