"""How much more processes take, and what holds them back: the table of deploy/capacity.md."""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING

from tests.documentation import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.rounds import Results

PAGE = ROOT / "deploy" / "capacity.md"
_COSTS = ("cpu_us", "broker_cpu_us")
_OURS = re.compile(r"cim-worker, (\d+) process")


def table(rounds: Sequence[Results]) -> Iterator[str]:
    """Yield a row for each workload and number of processes: medians over the rounds."""
    yield "| messages | processes | messages/s | spread | of one process | cores busy: workers | cores busy: broker |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    one_process: dict[str, float] = {}
    for workload, contender in rounds[0]:
        ours = _OURS.match(contender)
        if ours is None:
            continue
        results = [one[workload, contender] for one in rounds]
        rates = [result.rate for result in results]
        rate = median(rates)
        cores = (median(result.rate * getattr(result, name) / 1e6 for result in results) for name in _COSTS)
        first = one_process.setdefault(workload, rate)
        cells = (workload, ours[1], f"{rate:,.0f}", f"{min(rates):,.0f} - {max(rates):,.0f}", f"{rate / first:.2f}")
        yield f"| {' | '.join((*cells, *(f'{one:.2f}' for one in cores)))} |"
