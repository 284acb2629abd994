"""Counts of one process, kept as plain numbers in the hot path and handed to Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from worker.codes import Code

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics(Collector):
    """The numbers. received = sum of outcomes + in flight, at every moment."""

    def __init__(self) -> None:
        """Start at zero."""
        self.received = 0
        self.settled: Counter[tuple[Outcome, str]] = Counter()
        self.seconds = [0] * (len(_BUCKETS) + 1)
        self.seconds_sum = 0.0
        self.bundles: Counter[str] = Counter()
        self.dependency_up: dict[str, bool] = {}
        self.outages: Counter[tuple[str, str]] = Counter()
        self.publisher_blocked = False
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    @property
    def in_flight(self) -> int:
        """Deliveries received and not ended yet."""
        return self.received - sum(self.settled.values())

    def count_outcome(self, outcome: Outcome, seconds: float, code: Code | None) -> None:
        """Count the end of one delivery."""
        self.settled[outcome, code.value if code is not None else ""] += 1
        self.seconds[bisect_left(_BUCKETS, seconds)] += 1
        self.seconds_sum += seconds

    def outcomes(self) -> dict[str, int]:
        """Return how many deliveries ended in each outcome."""
        totals = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        for (outcome, _), count in self.settled.items():
            totals[outcome.value] += count
        return totals

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; called by Prometheus' registry."""
        yield CounterMetricFamily("cim_received", "Deliveries taken from the ingress queue.", value=self.received)
        outcomes = CounterMetricFamily(
            "cim_outcomes", "Deliveries by outcome and reason code.", labels=("outcome", "code")
        )
        for (outcome, code), count in sorted(self.settled.items()):
            outcomes.add_metric((outcome.value, code), count)
        yield outcomes
        yield GaugeMetricFamily("cim_in_flight", "Deliveries received and not ended yet.", value=self.in_flight)
        yield HistogramMetricFamily(
            "cim_handling_seconds",
            "From receipt to outcome.",
            buckets=self._cumulative(),
            sum_value=self.seconds_sum,
        )
        bundles = CounterMetricFamily("cim_bundles", "Bundles of work by lane.", labels=("lane",))
        for lane, count in sorted(self.bundles.items()):
            bundles.add_metric((lane,), count)
        yield bundles
        up = GaugeMetricFamily("cim_dependency_up", "1 while the dependency can be used.", labels=("dependency",))
        for name, usable in sorted(self.dependency_up.items()):
            up.add_metric((name,), float(usable))
        yield up
        outages = CounterMetricFamily("cim_outages", "Outages by dependency and reason.", labels=("dependency", "code"))
        for (name, code), count in sorted(self.outages.items()):
            outages.add_metric((name, code), count)
        yield outages
        yield GaugeMetricFamily(
            "cim_publisher_blocked",
            "1 while the broker blocks publishers (resource alarm).",
            value=float(self.publisher_blocked),
        )

    def _cumulative(self) -> list[tuple[str, float]]:
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self.seconds, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets
