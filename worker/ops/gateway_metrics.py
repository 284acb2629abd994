"""The numbers of a gateway, as Prometheus reads them."""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from worker import __version__
from worker.ops import background
from worker.ops.metric_catalogue import METRIC, METRICS
from worker.ops.metrics import Histogram, Metrics
from worker.ops.pool_metrics import family
from worker.ops.process import process_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric as Family

    from worker.ops.metrics import Report

_OWN = "gateway"


class GatewayMetrics(Collector):
    """Counts requests, and asks for the rest when it is scraped."""

    def __init__(self) -> None:
        """Start at zero."""
        self.requests: Counter[int] = Counter()
        """Answers by status."""
        self.seconds = Histogram("cim_gateway_request_seconds")
        self.broker = Metrics()
        """Where the reporter counts outages."""
        self.in_flight: Callable[[], int] = int
        self.body_bytes: Callable[[], int] = int
        self.reachable: Callable[[], bool] = bool
        """Whether the broker takes publishes."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answered(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests[status] += 1
        self.seconds.observe(seconds)

    def exposition(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield the metric families; called by Prometheus' registry."""
        yield family(METRIC["cim_gateway_requests_total"], {(str(status),): n for status, n in self.requests.items()})
        yield family(METRIC["cim_gateway_request_seconds"], {(): [*self.seconds.counts, self.seconds.total]})
        yield family(METRIC["cim_gateway_in_flight"], {(): self.in_flight()})
        yield family(METRIC["cim_gateway_body_bytes"], {(): self.body_bytes()})
        shared = self._shared()
        for row in METRICS:
            if row.name in shared:
                yield family(row, {tuple(labels): value for labels, value in shared[row.name]})

    def _shared(self) -> Report:
        """Return what workers expose as well."""
        return {
            **process_report(_OWN),
            "cim_build_info": [[[__version__, platform.python_version()], 1]],
            "cim_dependency_up": [[["broker"], self.reachable()]],
            "cim_outages_total": [[list(labels), count] for labels, count in self.broker.outages.items()],
            "cim_log_lines_dropped_total": [[[], background.dropped_lines]],
        }
