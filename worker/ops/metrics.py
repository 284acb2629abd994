"""Counts of one process: plain numbers, cheap to change, of which a report is made every second for the pool."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from worker.ops import background
from worker.ops.catalogue import METRIC
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.codes import Code

Report = dict[str, list[list[Any]]]
"""Samples by metric, each `[label values, value]`, of a histogram `[label values, counts by bucket, sum]`."""


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


class Metrics:
    """The numbers. received = sum of outcomes + in flight, at every moment."""

    def __init__(self) -> None:
        """Start at zero."""
        self.received = 0
        self.settled: Counter[tuple[Outcome, str, str]] = Counter()
        self.journal_missed = 0
        self.receipts: Counter[str] = Counter()
        self.handling = Histogram("cim_handling_seconds")
        self.bundles: Counter[str] = Counter()
        self.dependency_up: dict[str, bool] = {}
        self.outages: Counter[tuple[str, str]] = Counter()
        self.publisher_blocked = False
        self.contradictions: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Deliveries received and not ended yet."""
        return self.received - sum(self.settled.values())

    def count_outcome(self, outcome: Outcome, seconds: float, code: Code | None, reason: str | None = None) -> None:
        """Count the end of one delivery."""
        self.settled[outcome, code.value if code is not None else "", reason or ""] += 1
        self.handling.observe(seconds)

    def outcomes(self) -> dict[str, int]:
        """Return how many deliveries ended in each outcome."""
        totals = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        for (outcome, _, _), count in self.settled.items():
            totals[outcome.value] += count
        return totals

    def report(self) -> Report:
        """Return all numbers as they are now."""
        return {
            "cim_received_total": _one(self.received),
            "cim_outcomes_total": [[[end.value, *rest], count] for (end, *rest), count in self.settled.items()],
            "cim_journal_missed_total": _one(self.journal_missed),
            "cim_receipts_total": _by_one(self.receipts),
            "cim_in_flight": _one(self.in_flight),
            "cim_handling_seconds": [[[], self.handling.counts, self.handling.total]],
            "cim_bundles_total": _by_one(self.bundles),
            "cim_dependency_up": _by_one(self.dependency_up),
            "cim_outages_total": [[list(labels), count] for labels, count in self.outages.items()],
            "cim_contradicting_anchors_total": _by_one(self.contradictions),
            "cim_publisher_blocked": _one(self.publisher_blocked),
            "cim_log_lines_dropped_total": _one(background.dropped_lines),
        }


def _one(value: float) -> list[list[Any]]:
    return [[[], int(value) if isinstance(value, bool) else value]]


def _by_one(values: Mapping[str, float]) -> list[list[Any]]:
    return [[[label], int(value)] for label, value in values.items()]


def outcome_count(samples: Iterable[list[Any]]) -> int:
    """Return how many outcomes the samples of `cim_outcomes_total` in a report count."""
    return sum(int(count) for _, count in samples)
