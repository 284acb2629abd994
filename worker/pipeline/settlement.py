"""The one place where a proven outcome becomes a count, a line in the log, a journal entry and an acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.dead_letters.provenance import attempt_of
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.pipeline.inbound import Inbound
    from worker.pipeline.journal import Journal
    from worker.ports import Clock, Delivery, Reporter


class Settlement:
    """Ends deliveries. Call it only when the effect is proven."""

    def __init__(
        self, acknowledge: Callable[[Delivery], None], reporter: Reporter, clock: Clock, journal: Journal | None = None
    ) -> None:
        """Tell the broker through *acknowledge*; with a *journal*, as soon as that has the outcome."""
        self._acknowledge = acknowledge
        self._reporter = reporter
        self._clock = clock
        self._journal = journal

    def settle(self, inbound: Inbound, outcome: Outcome) -> None:
        """End a delivery in *outcome*: published, stored or duplicate."""
        delivery = inbound.delivery
        seconds = self._clock.monotonic() - delivery.received_at
        self._reporter.settled(outcome, seconds, None, inbound.stored_because)
        if self._journal is None:
            self._acknowledge(delivery)
        else:
            self._journal.note(delivery, inbound.identity, outcome, reason=inbound.stored_because, code=None)

    def settle_failed(self, delivery: Delivery, outcome: Outcome, failure: Failure, identity: Identity) -> None:
        """End *delivery* in *outcome*, retry, waiting or dead, after its copy was confirmed."""
        self._reporter.settled(outcome, self._clock.monotonic() - delivery.received_at, failure.code)
        if outcome is not Outcome.WAITING:  # an outage is one line, however many messages wait for its end
            self._reporter.letter(failure, identity, attempt_of(delivery), retry=outcome is Outcome.RETRY)
        if self._journal is None:
            self._acknowledge(delivery)
        else:
            self._journal.note(delivery, identity, outcome, reason=None, code=failure.code.value)

    def handed_back(self, delivery: Delivery) -> None:
        """Count a delivery that went back to the broker unsettled."""
        self._reporter.settled(Outcome.HANDED_BACK, self._clock.monotonic() - delivery.received_at)

    def acknowledge_proven(self) -> None:
        """Acknowledge what only waits for its journal entry: the session ends, and its effect is proven."""
        if self._journal is not None:
            self._journal.release_all()
