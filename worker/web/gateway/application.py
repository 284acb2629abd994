"""The routes of the gateway: activities, health, and everything else in the same shape."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from worker.web.gateway.activities import PATHS
from worker.web.gateway.answers import Answer, Refused
from worker.web.gateway.openapi import openapi, page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from worker.web.gateway.activities import Activities

_PATHS: Final = frozenset(PATHS)
_ALLOW: Final = ((b"allow", b"POST, OPTIONS"),)
_CORS_HEADERS: Final = (
    *("Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "Prefer"),
    *("tenantid", "correlationId", "traceparent"),
)
_CORS_SECONDS: Final = 600


class Gateway:
    """The whole app: activities at once, all else through Starlette."""

    def __init__(self, activities: Activities, others: ASGIApp) -> None:
        self._activities = activities
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._others(scope, receive, send)
        elif scope["method"] == "POST":
            await self._activities(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await Answer(HTTPStatus.NO_CONTENT.value, b"", _ALLOW).send(send)
        else:
            refused = Refused(HTTPStatus.METHOD_NOT_ALLOWED, "POST one CIM message.", headers=_ALLOW)
            await refused.answer(scope["path"]).send(send)


def application(
    activities: Activities,
    reasons_not_ready: Callable[[], list[str]],
    *,
    cors_origins: Sequence[str],
    authenticated: bool,
) -> ASGIApp:
    """Return the app. Browsers' pages of *cors_origins* may use it, `*` means all; *authenticated*: with tokens."""
    document = orjson.dumps(openapi(authenticated=authenticated))
    html = page(authenticated=authenticated)

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        reasons = reasons_not_ready()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def contract(_: Request) -> Response:
        return Response(document, media_type="application/json")

    async def readable(_: Request) -> Response:
        return HTMLResponse(html, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})

    endpoints = {"/livez": live, "/readyz": ready, "/openapi.json": contract, "/": readable}
    others = Starlette(
        routes=[Route(path, endpoint) for path, endpoint in endpoints.items()],
        exception_handlers={HTTPStatus.NOT_FOUND: _not_found, HTTPStatus.METHOD_NOT_ALLOWED: _not_allowed},
    )
    others.router.redirect_slashes = False
    app: ASGIApp = Gateway(activities, others)
    if cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(cors_origins),
            allow_methods=["POST"],
            allow_headers=list(_CORS_HEADERS),
            expose_headers=["Retry-After", "Preference-Applied"],
            max_age=_CORS_SECONDS,
        )
    return app


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


async def _not_allowed(request: Request, _: Exception) -> Response:
    return _refusal(request, Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET.", headers=((b"allow", b"GET, HEAD"),)))


async def _not_found(request: Request, _: Exception) -> Response:
    return _refusal(request, Refused(HTTPStatus.NOT_FOUND, f"Activities are taken by POST {PATHS[0]}."))


def _refusal(request: Request, refused: Refused) -> Response:
    answer = refused.answer(request.url.path)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)
