"""Starts worker processes, passes signals on, and restarts those that crash with growing pauses."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import socket
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import structlog

from worker.flow.backoff import Backoff
from worker.ops.logging import configure_logging
from worker.process.entry import run_process
from worker.process.signals import StopSignals
from worker.settings import ConfigurationError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from worker.settings import Settings

_PAUSE_SECONDS = (0.5, 5.0)
"""First and longest pause before a process is started again, before jitter."""
_STEADY_SECONDS = 30.0
"""A process that lived this long was a success: the next pause is the shortest again."""


def run(settings: Settings, signals: StopSignals) -> int:
    """Run the pool until one of *signals*. Blocking. Returns the exit code.

    One process runs right here, without a supervisor around it; more are spawned, never forked, because neither the
    event loop nor the store's client survives a fork. A second signal ends all at once.
    Raises `ConfigurationError` when a health port cannot be used.
    """
    check_health_ports(settings)
    configure_logging(settings.log_format, settings.log_level, in_background=True)
    if settings.processes == 1:
        run_process(settings, 0, signals)
        return 0
    return _Pool(settings, signals).run()


def check_health_ports(settings: Settings) -> None:
    """Raise `ConfigurationError` unless every process can listen on its health port."""
    if not settings.health_port:
        return
    for port in range(settings.health_port, settings.health_port + settings.processes):
        try:
            socket.create_server((settings.health_host, port)).close()
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there are 65535 ports"
            at = f"port {port} of {settings.health_host} cannot be opened: {reason}"
            raise ConfigurationError(f"CIM_HEALTH_PORT: {at}; choose another, one for each process") from None


class _Pool:
    def __init__(self, settings: Settings, signals: StopSignals) -> None:
        self._settings = settings
        self._signals = signals
        self._context = multiprocessing.get_context("spawn")
        self._log = structlog.get_logger()
        self._children: dict[int, SpawnProcess] = {}
        self._started_at: dict[int, float] = {}
        self._start_after: dict[int, float] = dict.fromkeys(range(settings.processes), 0.0)
        self._backoffs = [Backoff(*_PAUSE_SECONDS, random=random.random) for _ in range(settings.processes)]
        self._not_started: set[int] = set()

    def run(self) -> int:
        self._signals.attach(self._stop_children, lambda _number: self._kill_children())
        self._log.info("supervisor_started", processes=self._settings.processes)
        while not self._signals.heard or self._children:
            if not self._signals.heard:
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
                self._start(index, now)

    def _start(self, index: int, now: float) -> None:
        """Start a process. When that fails, say so once, and try again later for as long as it takes."""
        child = self._context.Process(
            target=run_child, args=(self._settings, index, os.getpid()), name=f"cim-worker-{index}"
        )
        try:
            child.start()
        except OSError as error:
            self._start_after[index] = now + self._backoffs[index].next()
            if index not in self._not_started:
                self._not_started.add(index)
                self._log.error("worker_process_not_started", process=index, reason=error.strerror or str(error))
            return
        self._not_started.discard(index)
        del self._start_after[index]
        self._children[index] = child
        self._started_at[index] = now
        if self._signals.heard:  # it came while the child was being started, and passed it by
            child.terminate()

    def _collect(self) -> None:
        for index, child in list(self._children.items()):
            if child.exitcode is None:
                continue
            child.join()
            del self._children[index]
            if self._signals.heard:
                continue
            self._plan_restart(index, child)

    def _plan_restart(self, index: int, child: SpawnProcess) -> None:
        now = time.monotonic()
        if now - self._started_at[index] > _STEADY_SECONDS:
            self._backoffs[index].reset()
        pause = self._backoffs[index].next()
        self._start_after[index] = now + pause
        self._log.error(
            "worker_process_died",
            process=index,
            child_pid=child.pid,
            exit_code=child.exitcode,
            restart_in_seconds=round(pause, 2),
        )

    def _stop_children(self) -> None:
        for child in list(self._children.values()):
            child.terminate()

    def _kill_children(self) -> None:
        for child in list(self._children.values()):
            child.kill()


def run_child(settings: Settings, index: int, parent: int) -> None:
    """Run in the spawned process. What a terminal sends reaches the whole group: only the supervisor acts on it."""
    signals = StopSignals(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    configure_logging(settings.log_format, settings.log_level, in_background=True)
    run_process(settings, index, signals, parent=parent)
    logging.shutdown()  # a spawned process ends without the handlers of `atexit`
