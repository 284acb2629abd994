"""The one place where a proven outcome becomes a count, a line in the log, a journal entry and an acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from worker.dead_letters.provenance import attempt_of, is_followed
from worker.dead_letters.reading import id_of_ours
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.pipeline.inbound import Inbound
    from worker.pipeline.journal import Journal
    from worker.pipeline.ports import StoredBecause
    from worker.ports import Clock, Delivery, Outgoing, Reporter


class Settled(msgspec.Struct, gc=False):
    """One proven outcome, as listeners are told it; made in a fraction of the time of a named tuple."""

    delivery: Delivery
    """Its reserved headers are trustworthy: a stranger's were stripped when it was read."""
    identity: Identity
    outcome: Outcome
    reason: StoredBecause | None = None
    """Why it was stored."""
    failure: Failure | None = None
    """Why it is retried, waits or is dead."""
    letter_id: str | None = None
    """Id of the dead letter it became."""


class Listener(Protocol):
    """Is told the outcome of every delivery that somebody follows: it asks for a receipt, or replays a letter.

    Told before the acknowledgement, so in doubt twice and never not at all. It is called in the middle of the work: it
    notes what it is told and returns. What it raises is reported, and changes nothing for the delivery and for others.
    """

    def settled(self, settled: Settled) -> None:
        """Take note of one outcome: published, stored, duplicate, dead, or, for the time being, waiting or retry."""


class Settlement:
    """Ends deliveries. Call it only when the effect is proven."""

    def __init__(
        self,
        acknowledge: Callable[[Sequence[Delivery]], None],
        reporter: Reporter,
        clock: Clock,
        journal: Journal | None = None,
        listeners: Sequence[Listener] = (),
        observers: Sequence[Listener] = (),
    ) -> None:
        """Tell the broker through *acknowledge*; with a *journal*, as soon as that has the outcome.

        *observers* are told of every delivery: each costs something per message.
        """
        self._observers = observers
        self._everybody = (*observers, *listeners)
        self._acknowledge = acknowledge
        self._reporter = reporter
        self._clock = clock
        self._journal = journal

    def settle_all(self, inbounds: Sequence[Inbound], outcome: Outcome) -> None:
        """End deliveries together, all in *outcome*: published, stored or duplicate."""
        if not inbounds:
            return
        now, monotonic = self._clock.now_ms(), self._clock.monotonic()
        ends = [
            (
                monotonic - one.delivery.received_at,
                one.stored_because,
                one.identity.body_type,
                None if (sent_at := one.identity.sent_at) is None else (now - sent_at) / 1000,
            )
            for one in inbounds
        ]
        self._reporter.settled_all(outcome, ends)
        for one in inbounds:
            properties = one.delivery.properties
            is_plain = not properties.headers and not properties.reply_to
            if listeners := self._observers if is_plain else self._listeners_of(one.delivery):
                self._tell(listeners, Settled(one.delivery, one.identity, outcome, one.stored_because))
        if self._journal is None:
            self._acknowledge([one.delivery for one in inbounds])
        else:
            self._journal.note_all(
                [(one.delivery, one.identity, outcome, one.stored_because, None, None) for one in inbounds]
            )

    def settle_failed(
        self, delivery: Delivery, outcome: Outcome, failure: Failure, identity: Identity, copy: Outgoing
    ) -> None:
        """End *delivery* in *outcome*, retry, waiting or dead, after its *copy* was confirmed."""
        self._reporter.settled(
            outcome,
            self._clock.monotonic() - delivery.received_at,
            failure.code,
            body_type=identity.body_type,
            age_seconds=self._age(identity) if outcome is Outcome.DEAD else None,
        )
        if outcome is not Outcome.WAITING:  # an outage is one line, however many messages wait for its end
            self._reporter.letter(failure, identity, attempt_of(delivery), retry=outcome is Outcome.RETRY)
        letter_id = id_of_ours(copy.body, copy.headers or {}) if outcome is Outcome.DEAD else None
        if listeners := self._listeners_of(delivery):
            self._tell(listeners, Settled(delivery, identity, outcome, None, failure, letter_id))
        if self._journal is None:
            self._acknowledge((delivery,))
        else:
            self._journal.note(delivery, identity, outcome, code=failure.code.value, letter_id=letter_id)

    def held(self, delivery: Delivery, failure: Failure, identity: Identity) -> None:
        """Tell of a *delivery* that is tried again without leaving this process: it goes on, and has no outcome yet."""
        self._reporter.held()
        self._reporter.letter(failure, identity, attempt_of(delivery), retry=True)
        if listeners := self._listeners_of(delivery):
            self._tell(listeners, Settled(delivery, identity, Outcome.RETRY, None, failure))

    def waits_in_hand(self, delivery: Delivery, failure: Failure, identity: Identity) -> None:
        """Tell observers of a *delivery* that waits for the store in this process: it has no outcome yet."""
        self._tell(self._observers, Settled(delivery, identity, Outcome.WAITING, None, failure))

    def handed_back(self, delivery: Delivery) -> None:
        """Count a delivery that went back to the broker unsettled."""
        self._reporter.settled(Outcome.HANDED_BACK, self._clock.monotonic() - delivery.received_at)

    def acknowledge_proven(self) -> None:
        """Acknowledge what only waits for its journal entry: the session ends, and its effect is proven."""
        if self._journal is not None:
            self._journal.release_all()

    def _age(self, identity: Identity) -> float | None:
        return None if identity.sent_at is None else (self._clock.now_ms() - identity.sent_at) / 1000

    def _listeners_of(self, delivery: Delivery) -> Sequence[Listener]:
        return self._everybody if is_followed(delivery.properties) else self._observers

    def _tell(self, listeners: Sequence[Listener], settled: Settled) -> None:
        for listener in listeners:
            try:
                listener.settled(settled)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a listener, the work goes on
                self._reporter.warn("listener_failed", listener=type(listener).__name__, reason=type(error).__name__)
