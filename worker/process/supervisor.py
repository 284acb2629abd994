"""Starts worker processes, passes signals on, and restarts those that crash with growing pauses."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import structlog

from worker.ops.logging import configure_logging
from worker.process.entry import run_process

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from types import FrameType

    from worker.settings import Settings

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_STEADY_SECONDS = 30.0
"""A process that lived this long starts again without a pause."""


def run(settings: Settings) -> int:
    """Run the pool until SIGTERM or SIGINT. Blocking. Returns the exit code.

    One process runs right here, without a supervisor around it; more are spawned, never forked, because neither the
    event loop nor the store's client survives a fork. A second signal ends all at once.
    """
    if settings.processes == 1:
        run_process(settings, 0)
        return 0
    return _Pool(settings).run()


class _Pool:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._log = structlog.get_logger()
        self._children: dict[int, SpawnProcess] = {}
        self._started_at: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._start_after: dict[int, float] = dict.fromkeys(range(settings.processes), 0.0)
        self._signals = 0

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._log.info("supervisor_started", processes=self._settings.processes)
        while not self._signals or self._children:
            if not self._signals:
                self._start_due()
            sentinels = [child.sentinel for child in self._children.values()]
            wait(sentinels, timeout=0.2) if sentinels else time.sleep(0.05)
            self._collect()
        self._log.info("supervisor_stopped")
        return 0

    def _start_due(self) -> None:
        now = time.monotonic()
        for index, due in list(self._start_after.items()):
            if due <= now:
                del self._start_after[index]
                child = self._context.Process(
                    target=run_child, args=(self._settings, index, os.getpid()), name=f"cim-worker-{index}"
                )
                child.start()
                self._children[index] = child
                self._started_at[index] = now
                if self._signals:  # it came while the child was being started, and passed it by
                    child.terminate()

    def _collect(self) -> None:
        for index, child in list(self._children.items()):
            if child.exitcode is None:
                continue
            child.join()
            del self._children[index]
            if self._signals:
                continue
            self._plan_restart(index, child)

    def _plan_restart(self, index: int, child: SpawnProcess) -> None:
        now = time.monotonic()
        if now - self._started_at[index] > _STEADY_SECONDS:
            self._pauses.pop(index, None)
        pause = self._pauses.get(index, _FIRST_PAUSE_SECONDS)
        self._pauses[index] = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._start_after[index] = now + pause
        self._log.error(
            "worker_process_died",
            process=index,
            child_pid=child.pid,
            exit_code=child.exitcode,
            restart_in_seconds=pause,
        )

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Pass the first signal on as SIGTERM; the second ends the children at once."""
        self._signals += 1
        for child in self._children.values():
            if self._signals > 1:
                child.kill()
            else:
                child.terminate()
        del number


def run_child(settings: Settings, index: int, parent: int) -> None:
    """Run in the spawned process. SIGINT of a terminal reaches the whole group: only the supervisor acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(settings.log_format, settings.log_level)
    run_process(settings, index, parent=parent)
