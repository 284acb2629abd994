"""Counts of one process, kept as plain numbers in the hot path and handed to Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from worker.ops import background
from worker.ops.catalogue import METRIC
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from worker.codes import Code

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics(Collector):
    """The numbers. received = sum of outcomes + in flight, at every moment."""

    def __init__(self) -> None:
        """Start at zero."""
        self.received = 0
        self.settled: Counter[tuple[Outcome, str, str]] = Counter()
        self.journal_missed = 0
        self.seconds = [0] * (len(_BUCKETS) + 1)
        self.seconds_sum = 0.0
        self.bundles: Counter[str] = Counter()
        self.dependency_up: dict[str, bool] = {}
        self.outages: Counter[tuple[str, str]] = Counter()
        self.publisher_blocked = False
        self.contradictions: Counter[str] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    @property
    def in_flight(self) -> int:
        """Deliveries received and not ended yet."""
        return self.received - sum(self.settled.values())

    def count_outcome(self, outcome: Outcome, seconds: float, code: Code | None, reason: str | None = None) -> None:
        """Count the end of one delivery."""
        self.settled[outcome, code.value if code is not None else "", reason or ""] += 1
        self.seconds[bisect_left(_BUCKETS, seconds)] += 1
        self.seconds_sum += seconds

    def outcomes(self) -> dict[str, int]:
        """Return how many deliveries ended in each outcome."""
        totals = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        for (outcome, _, _), count in self.settled.items():
            totals[outcome.value] += count
        return totals

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; called by Prometheus' registry."""
        yield _family("cim_received_total", [((), self.received)])
        outcomes = (((end.value, code, reason), count) for (end, code, reason), count in self.settled.items())
        yield _family("cim_outcomes_total", outcomes)
        yield _family("cim_journal_missed_total", [((), self.journal_missed)])
        yield _family("cim_in_flight", [((), self.in_flight)])
        handling = METRIC["cim_handling_seconds"]
        yield HistogramMetricFamily(
            handling.name, handling.meaning, buckets=self._cumulative(), sum_value=self.seconds_sum
        )
        yield _family("cim_bundles_total", (((lane,), count) for lane, count in self.bundles.items()))
        yield _family("cim_dependency_up", (((name,), usable) for name, usable in self.dependency_up.items()))
        yield _family("cim_outages_total", self.outages.items())
        kinds = (((kind,), count) for kind, count in self.contradictions.items())
        yield _family("cim_contradicting_anchors_total", kinds)
        yield _family("cim_publisher_blocked", [((), self.publisher_blocked)])
        yield _family("cim_log_lines_dropped_total", [((), background.dropped_lines)])

    def _cumulative(self) -> list[tuple[str, float]]:
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self.seconds, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


def _family(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Return the family *name* of the catalogue with a sample for each combination of label values."""
    row = METRIC[name]
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family = kind(row.name, row.meaning, labels=row.labels)
    for labels, value in sorted(samples):
        family.add_metric(labels, float(value))
    return family
