"""How many of something may start per second. No I/O: the clock is an argument."""

from __future__ import annotations


class Budget:
    """A token bucket: at most *per_second* a second, saved up for one second."""

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one if there is one left at *now* (monotonic seconds)."""
        self._tokens = min(float(self._per_second), self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
