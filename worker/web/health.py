"""Is it alive, is it ready, and the numbers: one port for a whole pool, for probes and scrapers. Nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.ops.printable import printable
from worker.web.server import Limits, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket

    from starlette.requests import Request

    from worker.ops.checks import Check

_PATHS: Final = ("/livez", "/readyz", "/metrics")
_LIMITS: Final = Limits(connections=64, request_seconds=10.0)
_SERVICE_UNAVAILABLE: Final = 503
_NOT_FOUND: Final = 404
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_REMINDER_SECONDS: Final = 60.0
_MAX_PATH: Final = 100


def health_server(
    listener: socket,
    *,
    live: Callable[[], tuple[bool, dict[str, object]]],
    checks: Callable[[], Sequence[Check]],
    exposition: Callable[[], bytes],
) -> WebServer:
    """Return a server that asks *live*, *checks* and *exposition* (Prometheus text) at every request."""

    async def livez(_: Request) -> Response:
        is_live, details = live()
        return _json(details, ok=is_live)

    async def readyz(_: Request) -> Response:
        made = checks()
        reasons = [check.reason for check in made if check.reason is not None]
        document = {"ready": not reasons, "reasons": reasons, "checks": [check.to_json() for check in made]}
        return _json(document, ok=not reasons)

    async def metrics(_: Request) -> Response:
        return Response(exposition(), media_type=None, headers={"Content-Type": _TEXT})

    endpoints = zip(_PATHS, (livez, readyz, metrics), strict=True)
    app = Starlette(
        routes=[Route(path, endpoint) for path, endpoint in endpoints],
        exception_handlers={_NOT_FOUND: _Unknown().answer},
    )
    app.router.redirect_slashes = False
    return WebServer(app, listener, name="pool", limits=_LIMITS)


def _json(document: dict[str, Any], *, ok: bool) -> Response:
    headers = {"Cache-Control": "no-store"}
    return JSONResponse(document, status_code=200 if ok else _SERVICE_UNAVAILABLE, headers=headers)


class _Unknown:
    """Says so once a minute when a probe asks for what there is not: it is configured wrongly."""

    def __init__(self) -> None:
        self._said_at = -_REMINDER_SECONDS

    async def answer(self, request: Request, _: Exception) -> Response:
        """Answer 404 with the paths there are."""
        now = time.monotonic()
        if now - self._said_at >= _REMINDER_SECONDS:
            self._said_at = now
            path = printable(request.url.path[:_MAX_PATH])
            structlog.get_logger().warning("http_path_unknown", path=path, fix=f"there are {', '.join(_PATHS)}")
        return JSONResponse({"error": f"try {', '.join(_PATHS)}"}, status_code=_NOT_FOUND)
