"""The outcomes of the last minutes, by second, so that older ones can leave. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.outcome import Outcome

if TYPE_CHECKING:
    from worker.desk.journal import Entry

_SECOND_MS: Final = 1000
_EXACT_BELOW_MS: Final = 100
_DONE: Final = frozenset({Outcome.PUBLISHED.value, Outcome.STORED.value})


class Kind(NamedTuple):
    """Outcomes of one kind."""

    outcome: str
    reason: str | None
    code: str | None


@dataclass(slots=True)
class _Second:
    kinds: Counter[Kind] = field(default_factory=Counter)
    took: Counter[int] = field(default_factory=Counter)
    """How many were published or stored within so many milliseconds of their receipt, to two digits."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcomes of a window."""

    window_ms: int
    kinds: Counter[Kind]
    p50_ms: int | None
    """Half were published or stored within this time of their receipt; None when none was."""
    p95_ms: int | None

    @property
    def total(self) -> int:
        """How many outcomes there were."""
        return self.kinds.total()

    @property
    def per_second(self) -> float:
        """Outcomes a second."""
        return self.total * 1000 / self.window_ms

    def by_outcome(self) -> Counter[str]:
        """Return the numbers by outcome alone."""
        counts: Counter[str] = Counter()
        for kind, number in self.kinds.items():
            counts[kind.outcome] += number
        return counts

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        kinds = [{**kind._asdict(), "count": number} for kind, number in self.kinds.most_common()]
        return {
            "seconds": self.window_ms / 1000,
            "total": self.total,
            "perSecond": round(self.per_second, 2),
            "p50Ms": self.p50_ms,
            "p95Ms": self.p95_ms,
            "kinds": kinds,
        }


class RecentOutcomes:
    """Collects outcomes; memory is bounded by the window's seconds and the kinds there are."""

    def __init__(self, window_ms: int) -> None:
        """Keep what ended within the last *window_ms*."""
        self.window_ms = window_ms
        self._seconds: defaultdict[int, _Second] = defaultdict(_Second)

    def add(self, entry: Entry) -> None:
        """Count an outcome of the journal."""
        second = self._seconds[entry.at // _SECOND_MS]
        second.kinds[Kind(entry.outcome, entry.reason, entry.code)] += 1
        if entry.outcome in _DONE:
            second.took[_two_digits(entry.at - entry.received_at)] += 1

    def summary(self, now: int) -> Summary:
        """Return what ended within the window before *now* (epoch ms), and forget what is older."""
        for old in [one for one in self._seconds if (one + 1) * _SECOND_MS <= now - self.window_ms]:
            del self._seconds[old]
        kinds: Counter[Kind] = Counter()
        took: Counter[int] = Counter()
        for second in self._seconds.values():
            kinds += second.kinds
            took += second.took
        return Summary(self.window_ms, kinds, _quantile(took, 0.5), _quantile(took, 0.95))


def _two_digits(ms: int) -> int:
    unit = 1
    while ms // unit >= _EXACT_BELOW_MS:
        unit *= 10
    return max(ms, 0) // unit * unit


def _quantile(took: Counter[int], share: float) -> int | None:
    wanted, seen = took.total() * share, 0
    for ms in sorted(took):
        seen += took[ms]
        if seen >= wanted:
            return ms
    return None
