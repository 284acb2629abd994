"""Starts worker processes, passes signals on, restarts those that end or fall silent, and serves the pool's HTTP port.

It is thin, so that whatever goes wrong with messages, broker or store cannot harm it: it loads neither.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import TYPE_CHECKING, Final

from worker.ops.checks import Check, of_pool
from worker.ops.logging import configure_logging
from worker.ops.pool_metrics import PoolMetrics
from worker.ops.structured import structlog
from worker.process.member import MISCONFIGURED, Member
from worker.process.signals import STUCK_SECONDS, StopSignals, end_at_once
from worker.settings import ConfigurationError
from worker.web.listening import ListenError, listen

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from socket import socket

    from worker.flow.pause import PauseState
    from worker.settings import Settings

_SILENT_SECONDS: Final = 30.0
"""A process that did not report for this long is replaced."""
_TICK_SECONDS: Final = 0.2
_FROZEN_SECONDS: Final = 5.0
"""When the supervisor itself was stopped for this long, its processes may have been, too: none is silent for that."""


def run(settings: Settings, signals: StopSignals) -> int:
    """Run the pool until one of *signals*. Blocking. Returns the exit code.

    Processes are spawned, never forked, because neither the event loop nor the store's client survives a fork. A second
    signal ends all at once. Raises `ConfigurationError` when the HTTP port was asked for and cannot be opened.
    """
    configure_logging(settings.log_format, settings.log_level, in_background=True)
    return asyncio.run(_Pool(settings, signals, open_http_port(settings)).run())


def open_http_port(settings: Settings) -> socket | None:
    """Return the listening socket; None, with a line in the log, when it is the default one and cannot be had.

    Raises `ConfigurationError` for one that was asked for.
    """
    try:
        return listen(settings.http_host, settings.http_port)
    except ListenError as error:
        if {"http_port", "http_host"} & settings.model_fields_set:
            raise ConfigurationError(f"CIM_HTTP_PORT: {error}; choose another one, or correct CIM_HTTP_HOST") from None
        structlog.get_logger().warning("http_port_unavailable", reason=str(error), fix="set CIM_HTTP_PORT")
        return None


class _Pool:
    def __init__(self, settings: Settings, signals: StopSignals, listener: socket | None) -> None:
        self._settings = settings
        self._signals = signals
        self._listener = listener
        self._context = multiprocessing.get_context("spawn")
        self._log = structlog.get_logger()
        self._members = [Member(index) for index in range(settings.processes)]
        self._metrics = PoolMetrics()
        self._metrics.configured = settings.processes
        self._pause: PauseState | None = None
        """Whether the pool is paused, as a process last knew it; one that begins in an outage holds to it."""
        self._has_reported = False
        self._is_misconfigured = False
        """Whether its processes cannot work with their settings: then the pool ends before it has begun."""
        self._turn = asyncio.Event()
        self._turned_at = time.monotonic()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._metrics.stopping_since = time.monotonic()
            self._stop_all()
            loop.call_soon_threadsafe(self._turn.set)

        self._signals.attach(stop, self._end_at_once)
        self._log.info("supervisor_started", processes=self._settings.processes)
        self._start_due()
        serving = asyncio.create_task(self._serve(), name="http")
        while not self._is_over or any(member.process for member in self._members):
            await self._wait()
            self._read_reports()
            self._replace_silent()
            self._end_stuck()
            self._collect()
            if not self._is_over:
                self._start_due()
        serving.cancel()
        await asyncio.wait([serving])
        self._log.info("supervisor_stopped")
        if self._is_misconfigured:
            return MISCONFIGURED
        return 1 if any(member.was_stuck for member in self._members) else 0

    @property
    def _is_over(self) -> bool:
        """Whether no process is started any more."""
        return self._signals.heard > 0 or self._is_misconfigured

    async def _serve(self) -> None:
        if self._listener is None:
            return
        from worker.web.health import health_server  # noqa: PLC0415 - loaded while the processes are starting

        server = health_server(self._listener, live=self.live, checks=self.checks, exposition=self._metrics.exposition)
        try:
            await server.start()
        except OSError as error:  # no descriptor left
            self._log.warning("http_port_unavailable", reason=str(error), fix="raise the limit of open files")
            return
        self._log.info("http_listening", host=self._settings.http_host, port=server.port)
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop()

    def live(self) -> tuple[bool, dict[str, object]]:
        """Return whether all is well with the processes themselves, whatever broker and store do, and the details."""
        silent = [member.index for member in self._members if member.silent_seconds > _SILENT_SECONDS]
        processes = [
            {
                "process": member.index,
                "pid": None if member.process is None else member.process.pid,
                "silent_seconds": round(member.silent_seconds, 1),
            }
            for member in self._members
        ]
        replaced = self._metrics.restarts.get("silent", 0)
        return not silent, {"live": not silent, "silent": silent, "replaced": replaced, "processes": processes}

    def checks(self) -> list[Check]:
        """Return what the readiness of the pool is made of."""
        stopping = Check("stopping", "stopping" if self._signals.heard else None)
        wrong = [reason for member in self._members if (reason := member.check())]
        reported = {member.index: member.checks for member in self._members if member.checks}
        return [stopping, Check("processes", "; ".join(wrong) or None), *of_pool(reported)]

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                await self._turn.wait()
        except TimeoutError:
            pass
        self._turn.clear()
        now = time.monotonic()
        if now - self._turned_at > _FROZEN_SECONDS:
            for member in self._members:
                member.heard_at = now
        self._turned_at = now

    def _start_due(self) -> None:
        for member in self._members:
            if member.process is None and member.start_at <= time.monotonic():
                self._start(member)

    def _start(self, member: Member) -> None:
        """Start a process. When that fails, say so once, and try again later for as long as it takes."""
        try:
            member.start(self._context, self._settings, self._pause)
        except OSError as error:
            member.start_at = time.monotonic() + member.backoff.next()
            member.why_not = f"cannot be started: {error.strerror or error}"
            if not member.not_started_said:
                member.not_started_said = True
                reason = error.strerror or str(error)
                self._log.error("worker_process_not_started", process=member.index, reason=reason)
            return
        if self._signals.heard and member.process:  # it came while the process was being started, and passed it by
            member.process.terminate()

    def _read_reports(self) -> None:
        for member in self._members:
            report = member.read()
            if report is not None:
                self._has_reported = True
                self._metrics.reported(member.index, report.metrics)
                self._pause = report.pause or self._pause

    def _replace_silent(self) -> None:
        for member in self._members:
            if member.process is not None and member.silent_seconds > _SILENT_SECONDS and not member.was_replaced:
                member.was_replaced = True
                self._log.error(
                    "worker_process_silent",
                    process=member.index,
                    child_pid=member.process.pid,
                    silent_seconds=round(member.silent_seconds, 1),
                )
                member.process.kill()

    def _end_stuck(self) -> None:
        """End what has not ended long after it was told to. What it held goes to others, as after a crash."""
        since = self._metrics.stopping_since
        if since is None or time.monotonic() - since < self._settings.drain_grace_ms / 1000 + STUCK_SECONDS:
            return
        for member in self._members:
            if member.process is not None and not member.was_stuck:
                member.was_stuck = True
                self._log.error(
                    "worker_process_stuck",
                    process=member.index,
                    child_pid=member.process.pid,
                    seconds=round(time.monotonic() - since, 1),
                )
                member.process.kill()

    def _collect(self) -> None:
        for member in self._members:
            if member.process is None or member.process.exitcode is None:
                continue
            self._read_reports()  # the last one was written before the end
            process = member.end()
            self._metrics.ended(member.index)
            if process.exitcode == MISCONFIGURED and not self._has_reported:
                self._is_misconfigured = True
                self._stop_all()
            elif not self._is_over:
                self._plan_restart(member, process)

    def _plan_restart(self, member: Member, process: SpawnProcess) -> None:
        pause = member.plan_restart()
        why = "silent" if member.was_replaced else "died" if process.exitcode else "ended"
        self._metrics.restarts[why] = self._metrics.restarts.get(why, 0) + 1
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        member.why_not = f"ended at {at} with exit code {process.exitcode}, and is started again"
        if process.exitcode == 0:
            self._log.info("worker_process_ended", process=member.index, child_pid=process.pid)
            return
        self._log.error(
            "worker_process_died",
            process=member.index,
            child_pid=process.pid,
            exit_code=process.exitcode,
            restart_in_seconds=round(pause, 2),
        )

    def _stop_all(self) -> None:
        for member in self._members:
            if member.process is not None:
                member.process.terminate()

    def _end_at_once(self, number: int) -> None:
        for member in self._members:
            if member.process is not None:
                member.process.kill()
        end_at_once(number)
