"""A gate that an operator closes: while it is closed, nothing is taken from the queues. No I/O."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple


class PauseState(NamedTuple):
    """Whether work is paused, and what the operator who did it said."""

    is_paused: bool
    by: str = ""
    reason: str = ""
    at: int = 0
    """Epoch milliseconds."""


NOT_PAUSED = PauseState(is_paused=False)


class Pause:
    """Open unless somebody paused the pool. The last known state holds until another one is known."""

    def __init__(self, state: PauseState | None = None) -> None:
        """Begin with *state*, None when nothing is known yet. Make it on a running event loop."""
        self.state = state or NOT_PAUSED
        self._known = asyncio.Event()
        self._open = asyncio.Event()
        self._closed = asyncio.Event()
        if state is not None:
            self._known.set()
        self._apply()

    @property
    def is_closed(self) -> bool:
        """Whether nothing may be taken."""
        return self.state.is_paused

    @property
    def is_known(self) -> bool:
        """Whether somebody has said so, or the opposite."""
        return self._known.is_set()

    def set(self, state: PauseState) -> bool:
        """Know another state; return whether that opens or closes the gate."""
        changed = state.is_paused != self.state.is_paused
        self.state = state
        self._known.set()
        self._apply()
        return changed

    async def wait_known(self, seconds: float) -> None:
        """Wait until the state is known, at most *seconds*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._known.wait()

    async def wait_open(self) -> None:
        """Wait until things may be taken."""
        await self._open.wait()

    async def wait_closed(self) -> None:
        """Wait until nothing may be taken any more."""
        await self._closed.wait()

    def _apply(self) -> None:
        (self._closed if self.state.is_paused else self._open).set()
        (self._open if self.state.is_paused else self._closed).clear()
