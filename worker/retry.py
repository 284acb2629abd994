"""Which retry tier comes after which attempt, and how many retries a second. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempt in, tier out. Stateless: the attempt travels in the message's own header."""

    delays: tuple[str, ...]
    """Names of the tiers, shortest first."""
    max_attempts: int
    """Tries a message gets, the first included."""

    @property
    def outage_tier(self) -> str:
        """The delay for works that wait for a dependency: the second tier, long enough not to turn in circles."""
        return self.delays[min(1, len(self.delays) - 1)]

    def tier_after(self, attempt: int) -> str | None:
        """Return the delay to wait after the failed try number *attempt* (from 1), or None when no try is left."""
        if attempt >= self.max_attempts:
            return None
        return self.delays[min(attempt, len(self.delays)) - 1]


class RetryBudget:
    """A token bucket: at most *per_second* retries a second, saved up for one second."""

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._at = now

    def seconds_until(self, count: int, now: float) -> float:
        """Take *count* retries and return how long to wait before starting them; 0 when they fit now."""
        self._tokens = min(float(self._per_second), self._tokens + (now - self._at) * self._per_second)
        self._at = now
        self._tokens -= count
        return max(0.0, -self._tokens / self._per_second)
