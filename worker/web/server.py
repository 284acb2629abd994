"""The one place where uvicorn serves an app: in the running event loop, quiet, and bounded against its clients.

Whoever calls has signals, logs and exit codes of his own, so uvicorn touches none of them. A client can take no more
than one of a limited number of connections, and none for longer than its request may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.codes import Stage
from worker.failure import classify
from worker.web.listening import KERNEL_QUEUE

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

_LOG_PAUSE_SECONDS: Final = 60
"""Clients that were turned away or too slow, and one kind of failed request, are logged this often."""
_ACCEPTED_AT_ONCE: Final = 16
"""Most connections taken in one turn of the loop: each holds a descriptor before it can be turned away."""
_SWEEP_SECONDS: Final = 1.0
"""Longest time between two looks at the deadlines of all connections."""
_TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of a server."""

    connections: int = 64
    """At once; those beyond are answered 503 and closed."""
    head_bytes: int = 16 * 1024
    """Request line and headers."""
    head_seconds: float = 5.0
    """From connecting, or from the first byte of a further request, until its head is complete."""
    request_seconds: float = 30.0
    """From there until the answer is with the client."""
    keep_alive_seconds: int = 5
    """How long a connection may be idle after an answer."""
    drain_seconds: int = 5
    """How long `stop` waits for requests in progress."""


class WebServer:
    """Serves *app* on the socket of `listen` from `start` to `stop`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, *, name: str, limits: Limits) -> None:
        """*name* is what the log calls this server."""
        self._listener = listener
        self.port = int(listener.getsockname()[1])
        """The port it listens on."""
        _allow_descriptors(2 * limits.connections)
        self._guard = _Guard(name, limits)
        self._server = _Server(_config(_Guarded(app, self._guard), self._guard), self._guard)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._serving = asyncio.create_task(self._server.serve([self._listener]), name=f"http {self._guard.name}")
        running = asyncio.create_task(self._server.running.wait())
        await asyncio.wait({self._serving, running}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        if self._serving.done():
            await self._serving
        self._listener.listen(KERNEL_QUEUE)

    async def stop(self) -> None:
        """Take no further requests, let those in progress end, then close. May be called without `start`."""
        if self._serving is None:
            self._listener.close()
            return
        self._server.stop()
        await self._serving


def _config(app: ASGIApp, guard: _Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=functools.partial(_Protocol, guard),  # type: ignore[arg-type] # called like the class it stands for
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL,  # each of its lines is one that a client can cause as often as it likes
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=guard.limits.keep_alive_seconds,
        timeout_graceful_shutdown=guard.limits.drain_seconds,
        h11_max_incomplete_event_size=guard.limits.head_bytes,
    )


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open descriptors as far as it may, if it is below *wanted*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@dataclass(slots=True)
class _Guard:
    """What a server's connections share: limits, and what is to be logged of those that broke them."""

    name: str
    limits: Limits
    turned_away: int = 0
    too_slow: int = 0
    most: int = field(init=False)
    """Connections at once: at most half the descriptors, the rest is for the work."""
    _logged_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        wanted = self.limits.connections
        self.most = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft // 2)

    def report_clients(self, *, at_end: bool = False) -> None:
        """Log how many clients were turned away or too slow since the last time; from time to time, and *at_end*."""
        if (self.turned_away or self.too_slow) and (at_end or self._is_due("")):
            structlog.get_logger().warning(
                "http_clients_cut_off", server=self.name, turned_away=self.turned_away, too_slow=self.too_slow
            )
            self.turned_away = self.too_slow = 0

    def report_failure(self, error: Exception) -> None:
        """Log a request that failed for a bug of ours, each kind from time to time."""
        failure = classify(error, Stage.BROKER)
        if self._is_due(failure.fingerprint):
            structlog.get_logger().error(
                "http_request_failed", server=self.name, reason=failure.detail, fingerprint=failure.fingerprint
            )

    def _is_due(self, kind: str) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._logged_at.get(kind, -_LOG_PAUSE_SECONDS) + _LOG_PAUSE_SECONDS:
            return False
        self._logged_at[kind] = now
        return True


class _Guarded:
    """The app, whose unexpected exceptions become one answer and one line in the log."""

    def __init__(self, app: ASGIApp, guard: _Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; uvicorn answers 500 when nothing was answered yet."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._guard.report_failure(error)
            raise  # whatever was sent, uvicorn ends the answer as it must; it logs nothing


class _Server(uvicorn.Server):
    """Uvicorn's server without its signal handlers and without polling for the end."""

    def __init__(self, config: uvicorn.Config, guard: _Guard) -> None:
        super().__init__(config)
        self.running = asyncio.Event()
        self._guard = guard
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            self.running.set()
            self._sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        sweeping = asyncio.create_task(self._keep_sweeping())
        await super().shutdown(sockets)
        sweeping.cancel()
        self._guard.report_clients(at_end=True)

    async def _keep_sweeping(self) -> None:
        while True:
            self._sweep()
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        return min(_SWEEP_SECONDS, self._guard.limits.head_seconds)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in cast("set[_Protocol]", self.server_state.connections.copy()):
            if connection.is_overdue(now):
                self._guard.too_slow += 1
                connection.transport.abort()
        self._guard.report_clients()


class _Protocol(H11Protocol):
    """One connection, with deadlines: uvicorn has one for idle connections only."""

    def __init__(self, guard: _Guard, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._guard = guard
        self._since = 0.0
        """When it connected, was answered, or began to send again."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        if len(self.connections) >= self._guard.most:
            self._guard.turned_away += 1
            self.transport = transport
            transport.write(_TURNED_AWAY)
            transport.close()
            return
        self._since = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._since = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # in the middle of an answer
            self.transport.abort()

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client took longer than it may for what it does at *now*."""
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            return False
        in_request = not getattr(self.cycle, "response_complete", True)  # None before the first request
        limits = self._guard.limits
        return now - self._since > (limits.head_seconds + limits.request_seconds if in_request else limits.head_seconds)
