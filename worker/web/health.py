"""Live, ready and metrics over HTTP, for probes and scrapers. Nothing else is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST_SECONDS = 5
_MAX_CLIENTS = 64
"""Clients at once: slow ones must not take the descriptors that the work needs. Those beyond are turned away."""
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class HealthServer:
    """Answers GET /health/live, /health/ready and /metrics."""

    def __init__(self, reasons_not_ready: Callable[[], list[str]], exposition: Callable[[], bytes]) -> None:
        """Ask *reasons_not_ready* (empty means ready) and *exposition* at every request."""
        self._reasons_not_ready = reasons_not_ready
        self._exposition = exposition
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises OSError when it is taken."""
        self._server = await asyncio.start_server(self._answer, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= _MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        unreadable = (ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with contextlib.suppress(TimeoutError, OSError, *unreadable):
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._respond(request.split(b" ", 2)[1].partition(b"?")[0])
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
                await writer.drain()
        self._clients -= 1
        writer.close()

    def _respond(self, path: bytes) -> tuple[str, str, bytes]:
        if path == b"/health/live":
            return "200 OK", "application/json", b'{"live":true}'
        if path == b"/health/ready":
            reasons = self._reasons_not_ready()
            body = json.dumps({"ready": not reasons, "reasons": reasons}).encode()
            return ("503 Service Unavailable" if reasons else "200 OK"), "application/json", body
        if path == b"/metrics":
            return "200 OK", _TEXT, self._exposition()
        return "404 Not Found", "application/json", b'{"error":"try /health/live, /health/ready or /metrics"}'
