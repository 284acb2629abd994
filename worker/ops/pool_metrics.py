"""The numbers of a whole pool, as Prometheus reads them: made of what its processes report, the ended ones included."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from worker import __version__
from worker.ops import background
from worker.ops.metric_catalogue import METRIC, METRICS, Metric
from worker.ops.process import process_report
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric as Family

    from worker.ops.metrics import Report

Labels = tuple[str, ...]
_Values = dict[Labels, Any]
"""Of a histogram a list: counts by bucket, then the sum."""


class PoolMetrics(Collector):
    """Merges reports: no counter ever goes backwards, however often a process ends and begins again."""

    def __init__(self) -> None:
        """Start at zero."""
        self._live: dict[int, Report] = {}
        self._ended: dict[str, _Values] = {}
        self.configured = 0
        """Processes that should run."""
        self.restarts: dict[str, int] = {}
        """Processes started again, by why the one before ended: died or silent."""
        self.stopping_since: float | None = None
        """When the pool was told to stop, in monotonic seconds."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def reported(self, process: int, report: Report) -> None:
        """Know the numbers of a process, which replace those of its last report."""
        self._live[process] = report

    def ended(self, process: int) -> None:
        """Know that a process has ended: its counts stay, and what it had in hand went back to the broker."""
        report = self._live.pop(process, None)
        if report is None:
            return
        for row in METRICS:
            if row.kind != "gauge":
                _add(self._ended.setdefault(row.name, {}), row, report.get(row.name, ()))
        _add(self._ended["cim_outcomes_total"], METRIC["cim_outcomes_total"], _in_hand(report))

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield the metric families; called by Prometheus' registry."""
        own = self._own()
        for row in METRICS:
            values = {labels: _copy(value) for labels, value in self._ended.get(row.name, {}).items()}
            for report in self._live.values():
                _add(values, row, report.get(row.name, ()))
            _add(values, row, own.get(row.name, ()))
            yield family(row, values)

    def _own(self) -> Report:
        """Return what the supervisor knows by itself."""
        return {
            **process_report("supervisor"),
            "cim_build_info": [[[__version__, platform.python_version()], 1]],
            "cim_processes": [[["configured"], self.configured], [["running"], len(self._live)]],
            "cim_draining_seconds": [
                [[], 0.0 if self.stopping_since is None else time.monotonic() - self.stopping_since]
            ],
            "cim_process_restarts_total": [[[why], count] for why, count in self.restarts.items()],
            "cim_log_lines_dropped_total": [[[], background.dropped_lines]],
        }


def _in_hand(report: Report) -> Iterable[list[Any]]:
    lost = sum(value for _, value in report.get("cim_in_flight", ()))
    return [[[Outcome.HANDED_BACK.value, *[""] * (len(METRIC["cim_outcomes_total"].labels) - 1)], lost]] if lost else ()


def _add(values: _Values, row: Metric, samples: Iterable[list[Any]]) -> None:
    for names, *sample in samples:
        labels = tuple(names)
        new = [*sample[0], sample[1]] if row.kind == "histogram" else sample[0]
        values[labels] = _merged(row, values[labels], new) if labels in values else new


def _merged(row: Metric, one: Any, other: Any) -> Any:
    if row.kind == "histogram":
        return [mine + its for mine, its in zip(one, other, strict=True)]
    return {"sum": one + other, "max": max(one, other), "min": min(one, other)}[row.merge]


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def family(row: Metric, values: Mapping[Labels, Any]) -> Family:
    """Return the family of *row* with a sample for each combination of label values."""
    if row.kind == "histogram":
        histogram = HistogramMetricFamily(row.name, row.meaning, labels=row.labels)
        for labels, (*counts, total) in sorted(values.items()):
            histogram.add_metric(labels, _cumulative(row.buckets, counts), total)
        return histogram
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    plain = kind(row.name, row.meaning, labels=row.labels)
    for labels, value in sorted(values.items()):
        plain.add_metric(labels, float(value))
    return plain


def _cumulative(bounds: Iterable[float], counts: Iterable[float]) -> list[tuple[str, float]]:
    total, buckets = 0.0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
