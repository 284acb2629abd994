"""The one place where uvicorn serves an app: in the running event loop, quiet, and bounded against its clients.

Whoever calls has signals, logs and exit codes of his own, so uvicorn touches none of them. A client can take no more
than one of a limited number of connections, and none for longer than its request may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import resource
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of a server."""

    connections: int = 64
    """At once; those beyond are answered 503 and closed."""
    head_bytes: int = 16 * 1024
    """Request line and headers, and trailers; beyond: 431."""
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
        timeout_graceful_shutdown=guard.limits.drain_seconds,
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
            if connection.cut_off_if_overdue(now):
                self._guard.too_slow += 1
        self._guard.report_clients()


class _HeadTooLargeError(Exception):
    """Breaks off the reading of a request; never leaves this module."""


class _Protocol(HttpToolsProtocol):
    """One connection, with what uvicorn leaves unbounded: how long a client takes, and how large a head is."""

    def __init__(self, guard: _Guard, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._guard = guard
        self._since = 0.0
        """When it connected, was answered, or began to send again."""
        self._is_idle = False
        """Whether its last request was answered, and nothing came since."""
        self._is_refused = False
        """Whether no further request is taken."""
        self._is_between = True
        """Whether the last message is complete, and the next one has not begun."""
        self._head_bytes = 0
        self._read_bytes = 0
        """How much this read brought."""
        self._earlier_bytes = 0
        """How much of it may belong to the message before."""
        self._fruitless_bytes = 0
        """What came since a message or a part of its body began: heads and trailers are kept until they end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        if len(self.connections) >= self._guard.most:
            self._guard.turned_away += 1
            self.transport = transport
            self._is_refused = True
            transport.write(_answer(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections.", b"Retry-After: 1\r\n"))
            transport.close()
            return
        self._since = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_idle:
            self._is_idle = False
            self._since = self.loop.time()
        self._read_bytes = len(data)
        self._earlier_bytes = 0 if self._is_between else self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(too_large=isinstance(error.__context__, _HeadTooLargeError))
        else:
            self._fruitless_bytes += self._read_bytes
            if self._fruitless_bytes > self._guard.limits.head_bytes and not self._is_between:
                self._refuse(too_large=True)

    def on_message_begin(self) -> None:
        self._is_between = False
        self._head_bytes = 0
        self._fruitless_bytes = -self._earlier_bytes
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + _HEADER_OVERHEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = -self._read_bytes
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_between = True
        self._earlier_bytes = self._read_bytes
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As uvicorn's, without a timer for each answer: one sweep looks after all connections.
        self._since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._is_idle = True

    def cut_off_if_overdue(self, now: float) -> bool:
        """End the connection when the client takes longer than it may; tell whether it was in the middle of something.

        One that waits for the rest of a body is told of it: its reader sees an empty part, and can look at the time.
        """
        waited, limits = now - self._since, self._guard.limits
        if self._is_idle and not self.transport.is_closing():
            if waited > limits.keep_alive_seconds:
                self.transport.close()
            return False
        in_request = not getattr(self.cycle, "response_complete", True)  # None before the first request
        if waited > (limits.head_seconds + limits.request_seconds if in_request else limits.head_seconds):
            self.transport.abort()
            return True
        if in_request and self.cycle.more_body:
            self.cycle.message_event.set()
        return False

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._guard.limits.head_bytes:
            raise _HeadTooLargeError

    def _decline_upgrade(self, rest: bytes) -> None:
        """Take the request as if it had not offered another protocol: some clients always do, no server has to take it.

        The parser takes what follows such a head for bytes of that protocol; another one reads it as the body it is.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(too_large=False)
            return
        head = [method, b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def _refuse(self, *, too_large: bool) -> None:
        """Take nothing more from this client; what it asked before is answered."""
        self._is_refused = True
        if getattr(self.cycle, "response_complete", True):
            self.transport.write(_answer(*(_TOO_LARGE if too_large else _NO_HTTP)))
            self.transport.write_eof()  # closed with something unread, the client might lose the answer: it may close
            self._since = self.loop.time()
        elif self.cycle.more_body or self.pipeline:
            self.transport.abort()
        else:
            self.cycle.keep_alive = False


_HEADER_OVERHEAD: Final = len(b": \r\n")
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Request line and headers are too large."
_NO_HTTP: Final = HTTPStatus.BAD_REQUEST, "This is not a valid HTTP/1.1 request."


def _answer(status: HTTPStatus, message: str, headers: bytes = b"") -> bytes:
    """Return the last answer on a connection whose request was not read, in the shape of the apps' own errors."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = {"timestamp": now, "status": status, "error": status.phrase, "message": message}
    body = json.dumps(document).encode()
    headers += b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), headers, body)
