"""The one place where a proven outcome becomes an acknowledgement, a count and a line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.dead_letters.provenance import attempt_of
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.ports import Clock, Delivery, Reporter


class Settlement:
    """Ends deliveries. Call it only when the effect is proven."""

    def __init__(self, acknowledge: Callable[[Delivery], None], reporter: Reporter, clock: Clock) -> None:
        """Tell the broker through *acknowledge*."""
        self._acknowledge = acknowledge
        self._reporter = reporter
        self._clock = clock

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """End *delivery* in *outcome*: published, stored or duplicate."""
        self._acknowledge(delivery)
        self._reporter.settled(outcome, self._clock.monotonic() - delivery.received_at)

    def settle_failed(self, delivery: Delivery, outcome: Outcome, failure: Failure, identity: Identity) -> None:
        """End *delivery* in *outcome*, retry, waiting or dead, after its copy was confirmed."""
        self._acknowledge(delivery)
        self._reporter.settled(outcome, self._clock.monotonic() - delivery.received_at, failure.code)
        if outcome is not Outcome.WAITING:  # an outage is one line, however many messages wait for its end
            self._reporter.letter(failure, identity, attempt_of(delivery), retry=outcome is Outcome.RETRY)

    def handed_back(self, delivery: Delivery) -> None:
        """Count a delivery that went back to the broker unsettled."""
        self._reporter.settled(Outcome.HANDED_BACK, self._clock.monotonic() - delivery.received_at)
