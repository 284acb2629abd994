"""The targets of the project, and what a run makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.contenders import AIO_PIKA, BLOCKING, FASTSTREAM_TUNED, OURS, OURS_TWO, SHOVEL
from tests.benchmarks.throughput import BARE_INSERT_MANY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.throughput import Result


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and what was measured."""

    what: str
    target: str
    measured: str
    met: bool

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"what": self.what, "target": self.target, "measured": self.measured, "met": self.met}


@dataclass(frozen=True, slots=True)
class RatioTarget:
    """Throughput of ours (the best of some contenders) divided by another's, in the same round."""

    what: str
    workload: str
    ours: tuple[str, ...]
    other: str
    least: float

    def verdict(self, rounds: Sequence[Mapping[tuple[str, str], Result]]) -> Verdict | None:
        """Return the median of the rounds' ratios, or None when one of the two did not take part."""
        ratios = []
        for results in rounds:
            own = [results[self.workload, name].rate for name in self.ours if (self.workload, name) in results]
            if own and (self.workload, self.other) in results:
                ratios.append(max(own) / results[self.workload, self.other].rate)
        if not ratios:
            return None
        value = median(ratios)
        return Verdict(self.what, f"≥ {self.least:g}x", f"{value:.2f}x", value >= self.least)


_ONE: Final = (OURS.name,)
RATIOS: Final = (
    RatioTarget("all live, 1 process / FastStream tuned", "live", _ONE, FASTSTREAM_TUNED.name, 6),
    RatioTarget("all live, 1 process / BlockingConnection loop", "live", _ONE, BLOCKING.name, 8),
    RatioTarget("all live, 1 process / aio-pika", "live", _ONE, AIO_PIKA.name, 2.5),
    RatioTarget("all live, best of 1 or 2 processes / shovel", "live", (OURS.name, OURS_TWO.name), SHOVEL.name, 0.6),
    RatioTarget("all stored, 1 process / insert_one loop", "stored", _ONE, BLOCKING.name, 5),
    RatioTarget("all stored, 1 process / bare insert_many", "stored", _ONE, BARE_INSERT_MANY, 0.8),
    RatioTarget("mixed, 1 process / FastStream tuned", "mixed", _ONE, FASTSTREAM_TUNED.name, 5),
)


def at_most(what: str, value: float, limit: float, unit: str) -> Verdict:
    """Return whether *value* stays within *limit*."""
    return Verdict(what, f"≤ {limit:g} {unit}".strip(), f"{value:.3g} {unit}".strip(), value <= limit)


def at_least(what: str, value: float, limit: float, unit: str) -> Verdict:
    """Return whether *value* reaches *limit*."""
    return Verdict(what, f"≥ {limit:g} {unit}".strip(), f"{value:.3g} {unit}".strip(), value >= limit)
