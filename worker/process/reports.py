"""What a worker process tells its supervisor, once a second, through a pipe: one line of JSON each.

Neither side ever waits for the other: a supervisor that does not read costs reports, and a process that does not
write is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from worker.flow.pause import PauseState
from worker.ops.checks import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.ops.metrics import Report

_EVERY_SECONDS: Final = 1.0
_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """One process as it is now. Nothing has a default: what is left out would be forgotten at a restart."""

    checks: Sequence[Check]
    metrics: Report
    pause: PauseState | None
    """Whether the pool is paused, as the process knows it; None while it does not."""

    def to_line(self) -> bytes:
        """Return it as one line."""
        checks = [[check.name, check.reason] for check in self.checks]
        document = {"checks": checks, "metrics": self.metrics, "pause": self.pause and list(self.pause)}
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> ProcessReport:
        """Read what `to_line` wrote. Raises ValueError for anything else."""
        document: dict[str, Any] = orjson.loads(line)
        checks = [Check(name, reason) for name, reason in document["checks"]]
        pause = document["pause"]
        return cls(checks, document["metrics"], None if pause is None else PauseState(*pause))


class ReportWriter:
    """Sends reports to a pipe until it is cancelled; a last one with `close`."""

    def __init__(self, descriptor: int, report: Callable[[], ProcessReport]) -> None:
        """Write what *report* returns to *descriptor*, which is closed at the end."""
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        os.set_blocking(descriptor, False)
        self._report = report
        self._rest = b""
        """What the pipe had no room for."""

    async def run(self) -> None:
        """Report now and every second."""
        while True:
            self._send()
            await asyncio.sleep(_EVERY_SECONDS)

    def close(self) -> None:
        """Report once more, and close the pipe."""
        if self._rest:
            self._send()
        self._send()
        self._file.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # the supervisor has ended: the watch for orphans notices it
            data = self._rest or self._report().to_line()
            self._rest = data[self._file.write(data) or 0 :]


class ReportReader:
    """Reads the reports of one process from the other end of its pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._rest = b""

    def read(self) -> ProcessReport | None:
        """Return the newest report that has arrived whole since the last call, None when none has. Never waits."""
        newest = None
        while data := self._next():
            *lines, self._rest = (self._rest + data).split(b"\n")
            newest = lines[-1] if lines else newest
        return None if newest is None else ProcessReport.from_line(newest)

    def _next(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""
