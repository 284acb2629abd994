"""Counts of one process: plain numbers, cheap to change, of which a report is made every second for the pool."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from worker.cim.bodies import BODY_MODELS
from worker.ops import background
from worker.ops.metric_catalogue import METRIC
from worker.outcome import Outcome
from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.codes import Code
    from worker.ports import End

Report = dict[str, list[list[Any]]]
"""Samples by metric, each `[label values, value]`, of a histogram `[label values, counts by bucket, sum]`."""


_CONFIRMED: Final = Confirmation.CONFIRMED.value
_OTHER: Final = "other"
"""Stands for body types that we do not know: publishers may write anything, and a label must not."""


class Histogram:
    """Counts by bucket, the last one for what is above every bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, name: str) -> None:
        """Have the buckets that the catalogue gives to *name*."""
        self._bounds: Final = METRIC[name].buckets
        self.counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Collection[float]) -> None:
        """Count each of *values*."""
        ordered, below = sorted(values), 0
        for bucket, bound in enumerate(self._bounds):
            up_to = bisect_right(ordered, bound)
            self.counts[bucket] += up_to - below
            below = up_to
            if below == len(ordered):
                break
        self.counts[-1] += len(ordered) - below
        self.total += sum(ordered)


class Histograms(dict[str, Histogram]):
    """One histogram for each value of a metric's one label."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, label: str) -> Histogram:
        """Begin another one."""
        made = self[label] = Histogram(self._name)
        return made

    def report(self) -> list[list[Any]]:
        """Return their samples."""
        return [[[label], one.counts, one.total] for label, one in self.items()]


class Metrics:
    """The numbers. received = sum of outcomes + in flight, at every moment."""

    def __init__(self) -> None:
        """Start at zero."""
        self.received = 0
        self.settled: Counter[tuple[Outcome, str, str, str]] = Counter()
        self.journal_missed = 0
        self.retries_deferred = 0
        self.moved = 0
        self.order_given_up = 0
        """Keys whose order was given up: too many waited, or for too long, for one that is retried."""
        self.retries_held = 0
        self.receipts: Counter[str] = Counter()
        self.handling = Histogram("cim_handling_seconds")
        self.ages = Histograms("cim_age_seconds")
        self.batch_sizes = Histograms("cim_batch_size")
        self.stage_seconds = Histograms("cim_stage_seconds")
        self.confirm_seconds = Histograms("cim_confirm_seconds")
        self.published: Counter[tuple[str, str]] = Counter()
        self.sessions = 0
        """Sessions with the broker so far."""
        self.observed: Report = {}
        """What was last seen from outside the work: queues and letters."""
        self.dependency_up: dict[str, bool] = {}
        self.outages: Counter[tuple[str, str]] = Counter()
        self.publisher_blocked = False
        self.contradictions: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Deliveries received and not ended yet."""
        return self.received - sum(self.settled.values())

    def count_outcome(
        self,
        outcome: Outcome,
        seconds: float,
        code: Code | None,
        reason: str | None = None,
        *,
        body_type: str | None = None,
        age_seconds: float | None = None,
    ) -> None:
        """Count the end of one delivery."""
        self.settled[outcome, code.value if code is not None else "", reason or "", _kind(body_type)] += 1
        self.handling.observe(seconds)
        if age_seconds is not None:
            self.ages[outcome].observe(age_seconds if age_seconds > 0 else 0.0)

    def count_outcomes(self, outcome: Outcome, ends: Sequence[End]) -> None:
        """Count the ends of deliveries that have no code."""
        seconds, reasons, body_types, ages = zip(*ends, strict=True)
        for (reason, body_type), count in Counter(zip(reasons, body_types, strict=True)).items():
            self.settled[outcome, "", reason or "", _kind(body_type)] += count
        self.handling.observe_all(seconds)
        self.ages[outcome].observe_all([0.0 if age < 0 else age for age in ages if age is not None])

    def count_deferred_retry(self) -> None:
        """Count a retry that waits in a later tier than its own, whose budget is used up."""
        self.retries_deferred += 1

    def count_moved(self, count: int) -> None:
        """Count messages that were moved on to their partitions."""
        self.moved += count

    def count_confirms(self, what: str, confirmations: Sequence[Confirmation], seconds: float) -> None:
        """Count messages published together, whose effect was known after *seconds*."""
        self.confirm_seconds[what].observe(seconds)
        confirmed = confirmations.count(Confirmation.CONFIRMED)
        self.published[what, _CONFIRMED] += confirmed
        if confirmed != len(confirmations):
            for one in confirmations:
                if one is not Confirmation.CONFIRMED:
                    self.published[what, one.value] += 1

    def outcomes(self) -> dict[str, int]:
        """Return how many deliveries ended in each outcome."""
        totals = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        for (outcome, _, _, _), count in self.settled.items():
            totals[outcome.value] += count
        return totals

    def stored_because(self) -> Counter[str]:
        """Return how many were stored for which reason."""
        totals: Counter[str] = Counter()
        for (outcome, _, reason, _), count in self.settled.items():
            if reason and outcome is Outcome.STORED:  # a duplicate would have been stored for a reason, too
                totals[str(reason)] += count
        return totals

    def report(self) -> Report:
        """Return all numbers as they are now."""
        return {
            "cim_received_total": _one(self.received),
            "cim_outcomes_total": [[[end.value, *rest], count] for (end, *rest), count in self.settled.items()],
            "cim_journal_missed_total": _one(self.journal_missed),
            "cim_retries_deferred_total": _one(self.retries_deferred),
            "cim_moved_total": _one(self.moved),
            "cim_order_given_up_total": _one(self.order_given_up),
            "cim_retries_held_total": _one(self.retries_held),
            "cim_receipts_total": _by_one(self.receipts),
            "cim_in_flight": _one(self.in_flight),
            "cim_handling_seconds": [[[], self.handling.counts, self.handling.total]],
            "cim_age_seconds": self.ages.report(),
            "cim_batch_size": self.batch_sizes.report(),
            "cim_stage_seconds": self.stage_seconds.report(),
            "cim_confirm_seconds": self.confirm_seconds.report(),
            "cim_published_total": [[list(labels), count] for labels, count in self.published.items()],
            "cim_reconnects_total": [[["broker"], max(0, self.sessions - 1)]],
            "cim_dependency_up": _by_one(self.dependency_up),
            "cim_outages_total": [[list(labels), count] for labels, count in self.outages.items()],
            "cim_contradicting_anchors_total": _by_one(self.contradictions),
            "cim_publisher_blocked": _one(self.publisher_blocked),
            "cim_log_lines_dropped_total": _one(background.dropped_lines),
            **self.observed,
        }


def _kind(body_type: str | None) -> str:
    return "" if body_type is None else body_type if body_type in BODY_MODELS else _OTHER


def _one(value: float) -> list[list[Any]]:
    return [[[], int(value) if isinstance(value, bool) else value]]


def _by_one(values: Mapping[str, float]) -> list[list[Any]]:
    return [[[label], int(value)] for label, value in values.items()]
