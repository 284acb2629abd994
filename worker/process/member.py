"""One place in the pool: the process that has it, what it reports, and what it runs."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from worker.failure import OperatorFault
from worker.flow.backoff import Backoff
from worker.ops.logging import configure_logging
from worker.ops.structured import structlog
from worker.process.reports import ReportReader
from worker.process.signals import StopSignals
from worker.settings import ConfigurationError, refreshed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe
    from multiprocessing.context import SpawnContext, SpawnProcess

    from worker.flow.pause import PauseState
    from worker.ops.checks import Check
    from worker.process.reports import ProcessReport
    from worker.settings import Settings

MISCONFIGURED: Final = 2
"""Exit code of a process that cannot work with its settings, and of the pool."""
_PAUSE_SECONDS: Final = (0.5, 5.0)
"""First and longest pause before a process is started again, before jitter."""
_STEADY_SECONDS: Final = 30.0
"""A process that lived this long was a success: the next pause is the shortest again."""
_LATE_SECONDS: Final = 5.0
"""A process that did not report for this long is not ready."""


class Member:
    """One place in the pool, and the process that has it."""

    def __init__(self, index: int) -> None:
        """Make place *index*, empty."""
        self.index = index
        self.process: SpawnProcess | None = None
        self.checks: list[Check] = []
        self.heard_at = 0.0
        """When the process last reported, or was started."""
        self.was_replaced = False
        """Whether it is being ended because it was silent."""
        self.was_stuck = False
        """Whether it was ended because it did not end by itself."""
        self.start_at = 0.0
        """When the next process is to be started, if there is none."""
        self.why_not = "is being started"
        self.not_started_said = False
        self.backoff = Backoff(*_PAUSE_SECONDS, random=random.random)
        self._started_at = 0.0
        self._pipe: Pipe | None = None
        self._reader: ReportReader | None = None

    def start(self, context: SpawnContext, settings: Settings, pause: PauseState | None) -> None:
        """Start a process that begins with *pause*. Raises OSError when the machine has no room for it."""
        pipe, its_end = context.Pipe(duplex=False)
        try:
            process = context.Process(
                target=run_child,
                args=(settings, self.index, os.getpid(), its_end, pause),
                name=f"cim-worker-{self.index}",
            )
            process.start()
        except BaseException:
            pipe.close()
            raise
        finally:
            its_end.close()
        self.process, self._pipe, self._reader = process, pipe, ReportReader(pipe.fileno())
        self.heard_at = self._started_at = time.monotonic()
        self.checks, self.was_replaced, self.not_started_said = [], False, False

    def read(self) -> ProcessReport | None:
        """Return what the process reported since the last call."""
        report = self._reader.read() if self._reader is not None else None
        if report is not None:
            self.heard_at = time.monotonic()
            self.checks = list(report.checks)
        return report

    def end(self) -> SpawnProcess:
        """Forget the process, which has ended, and return it."""
        process, self.process, self._reader, self.checks = self.process, None, None, []
        if process is None or self._pipe is None:
            msg = "there is no process to forget"
            raise AssertionError(msg)
        process.join()
        self._pipe.close()
        return process

    def plan_restart(self) -> float:
        """Return after how many seconds the next process is started."""
        now = time.monotonic()
        if now - self._started_at > _STEADY_SECONDS:
            self.backoff.reset()
        pause = self.backoff.next()
        self.start_at = now + pause
        return pause

    @property
    def silent_seconds(self) -> float:
        """How long the process has not reported; 0 when there is none."""
        return 0.0 if self.process is None else time.monotonic() - self.heard_at

    def check(self) -> str | None:
        """Return what is wrong with the process, in words, or None."""
        if self.process is None:
            return f"process {self.index} {self.why_not}"
        is_late = self.silent_seconds > _LATE_SECONDS
        if not self.checks:
            since = f", for {self.silent_seconds:.0f} s now" if is_late else ""
            return f"process {self.index} is starting{since}"
        return f"process {self.index} has not reported for {self.silent_seconds:.0f} s" if is_late else None


def run_child(settings: Settings, index: int, parent: int, reports: Pipe, pause: PauseState | None) -> None:
    """Run in the spawned process. What a terminal sends reaches the whole group: only the supervisor acts on it."""
    signals = StopSignals(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    configure_logging(settings.log_format, settings.log_level, in_background=True)
    with contextlib.suppress(ConfigurationError):  # as they were when the pool began
        settings = refreshed(settings)
    from worker.process.entry import run_process  # noqa: PLC0415 - what the supervisor does without

    code = 0
    try:
        run_process(settings, index, signals, parent=parent, reports=reports.fileno(), pause=pause)
    except OperatorFault as error:  # nothing is connected yet
        structlog.get_logger().error(
            "store_address_unusable", reason=error.failure.detail, fix="correct CIM_MONGODB_URI"
        )
        code = MISCONFIGURED
    logging.shutdown()  # a spawned process ends without the handlers of `atexit`
    sys.exit(code)
