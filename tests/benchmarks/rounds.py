"""Rounds: every contender once in each workload, one after the other, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.contenders import ALL
from tests.benchmarks.throughput import BARE_INSERT_MANY, Result, run, run_bare_insert_many

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.contenders import Contender
    from tests.benchmarks.stage import Stage

_BARE_RATE = 40_000
_MOST_MESSAGES = 120_000
_LEAST_MESSAGES = 600

Results = dict[tuple[str, str], Result]
"""By workload and contender."""


class Rounds:
    """Runs rounds on one stage; runs are sized to last about *seconds*, from what earlier ones showed."""

    def __init__(
        self,
        stage: Stage,
        *,
        seconds: float,
        only: Sequence[str],
        say: Callable[[str], object],
        most_messages: int = _MOST_MESSAGES,
    ) -> None:
        self._stage = stage
        self._seconds = seconds
        self._contenders = [one for one in ALL if not only or any(word in one.name for word in only)]
        self._with_bare = not only or any(word in BARE_INSERT_MANY for word in only)
        self._say = say
        self._most_messages = most_messages
        self._rates: dict[tuple[str, str], float] = {}

    def round(self, workloads: Sequence[str]) -> Results:
        """Run every contender once in each of its *workloads*."""
        results: Results = {}
        for workload in workloads:
            for contender in self._contenders:
                if workload in contender.rates:
                    results[workload, contender.name] = self._run(contender, workload)
            if workload == "stored" and self._with_bare:
                results[workload, BARE_INSERT_MANY] = self._run_bare()
        return results

    def _run(self, contender: Contender, workload: str) -> Result:
        rate = self._rates.get((workload, contender.name), contender.rates[workload])
        return self._note(run(self._stage, contender, workload, self._size(rate)))

    def _run_bare(self) -> Result:
        rate = self._rates.get(("stored", BARE_INSERT_MANY), _BARE_RATE)
        return self._note(run_bare_insert_many(self._stage, self._size(rate)))

    def _size(self, rate: float) -> int:
        return int(min(max(rate * self._seconds, _LEAST_MESSAGES), self._most_messages))

    def _note(self, result: Result) -> Result:
        self._rates[result.workload, result.contender] = result.rate
        self._say(
            f"  {result.workload:8} {result.contender:28} {result.rate:8,.0f}/s  {result.messages:7,} messages"
            f"  {result.cpu_us:6.0f} µs  {result.memory_mb:5.0f} MiB"
        )
        return result
