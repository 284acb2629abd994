"""Hearing signals from the first moment: before the heavy imports, and as process 1 of a container too.

For process 1 the kernel knows no default action: a signal without a handler is lost. Imports nothing heavy.
"""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STUCK_SECONDS = 8.0
"""A process that was told to stop has so long beyond its time for draining; what runs pools gives them ten."""


def end_at_once(number: int) -> None:
    """End this process as signal *number* does by default; process 1, which has no default, exits with 128 + number."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


class StopSignals:
    """The first of its signals asks to stop in order, the second ends at once. Make it in the main thread."""

    def __init__(self, *numbers: signal.Signals) -> None:
        """Hear *numbers*, but not those that whoever started us wants ignored (`nohup`)."""
        self.heard = 0
        """How many came."""
        self._stop: Callable[[], None] = lambda: None
        self._end: Callable[[int], None] = end_at_once
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def attach(self, stop: Callable[[], None], end: Callable[[int], None] = end_at_once) -> None:
        """Call *stop* at the first signal, now if it has come already, and *end* with its number at every other one.

        Both are called between any two instructions of the main thread.
        """
        self._stop, self._end = stop, end
        if self.heard:
            stop()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.heard += 1
        if self.heard > 1:
            self._end(number)
        else:
            self._stop()


@functools.cache
def hear_stop_signals() -> StopSignals:
    """Hear, from the first call on, what asks `cim-worker run` to stop; SIGHUP is a terminal that was closed."""
    return StopSignals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
