"""Everything but the comparison: latency, memory, scale and worst cases of our worker, held against their targets."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.benchmarks import endurance, latency
from tests.benchmarks.contenders import OURS
from tests.benchmarks.targets import Verdict, at_least, at_most
from tests.benchmarks.throughput import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.stage import Stage

_SHALLOW_DEPTH: Final = 1000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    lone: int
    loaded_seconds: float
    long: int
    shallow: int
    few_conversations: int
    many_conversations: int
    conversation_messages: int
    conversation_rounds: int
    worst: int
    large: int


QUICK: Final = Sizes(40, 2, 20_000, 5_000, 10, 500, 8_000, 1, 6_000, 40)
FULL: Final = Sizes(200, 10, 1_000_000, 50_000, 10, 10_000, 160_000, 3, 40_000, 300)


class Further:
    """The further measurements, one after the other."""

    def __init__(self, stage: Stage, sizes: Sizes, say: Callable[[str], object]) -> None:
        """Measure on *stage*."""
        self._stage = stage
        self._sizes = sizes
        self._say = say

    def all(self) -> Iterator[Verdict]:
        """Yield every verdict."""
        for part in (self._latency, self._long_queue, self._conversations, self._large, self._invalid, self._returned):
            for verdict in part():
                self._say(f"  {verdict.what}: {verdict.measured} (target {verdict.target})")
                yield verdict

    def _latency(self) -> Iterator[Verdict]:
        lone = latency.alone(self._stage, self._sizes.lone)
        yield at_most("lone message on an idle worker, p50", lone.p50, 10, "ms")
        rate = self._live_rate() / 2
        loaded = latency.under_load(self._stage, rate, self._sizes.loaded_seconds)
        yield at_most(f"latency at {rate:,.0f}/s (half of the maximum), p50", loaded.p50, 15, "ms")
        yield at_most(f"latency at {rate:,.0f}/s (half of the maximum), p99", loaded.p99, 75, "ms")

    def _long_queue(self) -> Iterator[Verdict]:
        sizes = self._sizes
        run_of = endurance.long_run(self._stage, sizes.long)
        yield at_most(f"memory after {sizes.long:,} messages", run_of.late_mb, 130, "MiB")
        growth = run_of.late_mb / run_of.early_mb
        yield at_most(f"memory after {sizes.long:,} messages / after {sizes.long // 10:,}", growth, 1.05, "")
        shallow = endurance.shallow_run(self._stage, sizes.shallow, _SHALLOW_DEPTH)
        what = f"CPU per message with {sizes.long:,} queued / with {_SHALLOW_DEPTH:,}"
        yield at_most(what, run_of.deep.cpu_us / shallow.cpu_us, 1.15, "")

    def _conversations(self) -> Iterator[Verdict]:
        sizes = self._sizes
        pairs = endurance.few_and_many_conversations(
            self._stage.store_uri,
            (sizes.few_conversations, sizes.many_conversations),
            messages=sizes.conversation_messages,
            rounds=sizes.conversation_rounds,
        )
        what = f"with {sizes.many_conversations:,} active conversations / with {sizes.few_conversations}"
        cpu = median(many.cpu_us / few.cpu_us for few, many in pairs)
        time = median(few.rate / many.rate for few, many in pairs)
        yield at_most(f"CPU per message {what}", cpu, 1.15, "")
        yield at_most(f"time per message {what}", time, 1.15, "")
        memory = median(many.memory_mb for _, many in pairs)
        yield at_most(f"memory with {sizes.many_conversations:,} active conversations", memory, 130, "MiB")

    def _large(self) -> Iterator[Verdict]:
        result = endurance.large_messages(self._stage, self._sizes.large)
        yield at_most(f"memory with messages of 1 MiB ({result.rate:.0f}/s)", result.memory_mb, 400, "MiB")

    def _invalid(self) -> Iterator[Verdict]:
        live = self._live_rate()
        result = run(self._stage, OURS, "invalid", self._sizes.worst, endurance.WARM_SHARE)
        yield at_least("every message invalid / all live", result.rate / live, 0.4, "")
        yield at_most("every message invalid: memory at the end / after a third", result.memory_growth, 1.05, "")

    def _returned(self) -> Iterator[Verdict]:
        live = self._live_rate()
        result = endurance.all_returned(self._stage, self._sizes.worst)
        yield at_least("every message returned / all live", result.rate / live, 0.4, "")
        yield at_most("every message returned: memory at the end / after a third", result.memory_growth, 1.05, "")

    def _live_rate(self) -> float:
        """Measure the all-live rate of one process, next to what it is compared with."""
        return run(self._stage, OURS, "live", self._sizes.worst).rate
