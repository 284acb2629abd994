"""The page as a web application: which address leads where, who is let in, and what every answer carries."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from worker.desk.errors import DeskError
from worker.desk.wording import why_not
from worker.failure import AdapterError
from worker.web.desk import causes, explained, jobs, letters, operations
from worker.web.desk.asked import STATUS, Asked, read_form
from worker.web.desk.door import SESSION, VISIT, Caller, set_cookie
from worker.web.desk.render import Page, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from worker.web.desk.door import Door
    from worker.web.desk.opening import Office
    from worker.web.desk.tasks import Tasks

_HEADERS: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_ASSETS: Final = {
    "desk.css": "text/css; charset=utf-8",
    "htmx-2.0.11.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_UNAVAILABLE: Final = 503
_SMALL_BYTES: Final = 16 * 1024


class Handler(Protocol):
    """Answers a request of somebody who was let in."""

    def __call__(self, asked: Asked) -> Awaitable[Page | Response]:
        """Return the page, or another answer."""


def application(office: Office, door: Door, tasks: Tasks) -> ASGIApp:
    """Return the page as an ASGI application."""
    entrance = _Entrance(office, door, tasks)
    pages: dict[str, Handler] = {
        "/": causes.overview,
        "/causes": causes.show,
        "/list": causes.listed,
        "/live": causes.live,
        "/letters": letters.listed,
        "/letters/{letter_id}": letters.show,
        "/letters/{letter_id}/edit": letters.edit_form,
        "/fix": operations.fix_form,
        "/discard": operations.discard_form,
        "/tasks/{task_id}": operations.task,
        "/jobs": jobs.listed,
        "/jobs/{job_id}": jobs.show,
        "/audit": jobs.audited,
        "/explain": explained.show,
    }
    changes: dict[str, Handler] = {
        "/plan": operations.plan_letters,
        "/replay": operations.replay_letters,
        "/fix/preview": operations.preview_fix,
        "/fix": operations.apply_fix,
        "/discard": operations.discard_letters,
        "/restore": operations.restore_letters,
        "/letters/{letter_id}/reveal": letters.reveal,
        "/letters/{letter_id}/edit": letters.save,
        "/tasks/{task_id}/stop": operations.stop,
        "/jobs/{job_id}/stop": jobs.stop,
        "/jobs/{job_id}/resume": jobs.go_on,
    }
    routes = [Route(path, entrance.page(handler)) for path, handler in pages.items()]
    routes += [Route(path, entrance.change(handler), methods=["POST"]) for path, handler in changes.items()]
    routes += [
        Route("/login", entrance.login_form),
        Route("/login", entrance.login, methods=["POST"]),
        Route("/logout", entrance.logout, methods=["POST"]),
        Route("/assets/{name}", _asset),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: entrance.no_such_page})
    app.router.redirect_slashes = False
    return _WithHeaders(app)


@dataclass(frozen=True, slots=True)
class _Entrance:
    office: Office
    door: Door
    tasks: Tasks

    def page(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._let_in(request, handler, {})

        return answer

    def change(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            if self.door.is_meant(request) and self.door.caller(request) is None:
                return self._unknown(request)  # before a byte of the form is read
            try:
                form = await read_form(request)
            except DeskError as error:
                return PlainTextResponse(f"{error}\n", 400)
            if not self.door.is_ours(request, form.get("form", "")):
                return self._forged()
            return await self._let_in(request, handler, form)

        return answer

    async def login_form(self, request: Request) -> Response:
        return self._answer(request, Page("login.html", "Come in", problem=""), None)

    async def login(self, request: Request) -> Response:
        form = await _small_form(request)
        if not self.door.is_ours(request, form.get("form", "")):
            return self._forged()
        session = self.door.come_in(form.get("token", ""))
        if session is None:
            return self._answer(request, Page("login.html", "Come in", 403, problem="Nobody has this token."), None)
        answer = RedirectResponse("/", 303)
        set_cookie(answer, request, SESSION, session)
        return answer

    async def logout(self, request: Request) -> Response:
        form = await _small_form(request)
        if not self.door.is_ours(request, form.get("form", "")):
            return self._forged()
        self.door.go_out(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(SESSION)
        return answer

    async def no_such_page(self, _: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return PlainTextResponse("there is no such page\n", status)

    async def _let_in(self, request: Request, handler: Handler, form: dict[str, str]) -> Response:
        if not self.door.is_meant(request):
            return PlainTextResponse("this page is reached as localhost; another name needs CIM_DESK_HOST\n", 421)
        caller = self.door.caller(request)
        if caller is None:
            return self._unknown(request)
        asked = Asked(request, self.office, self.tasks, caller, form)
        try:
            answer = await handler(asked)
        except DeskError as error:
            answer = Page("problem.html", "That did not work", STATUS[error.kind], problem=str(error))
        except AdapterError as error:
            text = f"store or broker cannot be asked: {why_not(error)}"
            answer = Page("problem.html", "Not now", _UNAVAILABLE, problem=text)
        return answer if isinstance(answer, Response) else self._answer(request, answer, caller)

    def _unknown(self, request: Request) -> Response:
        if self.door.takes_tokens and request.method == "GET" and "hx-request" not in request.headers:
            return RedirectResponse("/login", 303)
        how = "come in at /login" if self.door.takes_tokens else "come through the proxy that knows you"
        return PlainTextResponse(f"nobody knows who you are: {how}\n", 401)

    def _forged(self) -> Response:
        text = "this form was not made by this page, or the page was restarted: go back, load it again, and repeat\n"
        return PlainTextResponse(text, 403)

    def _answer(self, request: Request, page: Page, caller: Caller | None) -> Response:
        visit = request.cookies.get(VISIT, "")
        is_new = not visit
        visit = visit or secrets.token_urlsafe(24)
        can_go_out = self.door.takes_tokens and caller is not None
        body = render(
            page,
            caller=caller,
            form=self.door.form_value(visit),
            can_go_out=can_go_out,
            read_only=self.office.settings.read_only or (caller is not None and not caller.may_change),
        )
        answer = Response(body, page.status, media_type="text/html", headers={"Cache-Control": "no-store"})
        if is_new:
            set_cookie(answer, request, VISIT, visit)
        return answer


async def _small_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that strangers may send; none of one that is not like that."""
    try:
        return await read_form(request, max_bytes=_SMALL_BYTES)
    except DeskError:
        return {}


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _ASSETS:
        return PlainTextResponse("there is no such file\n", 404)
    content = files("worker.web.desk").joinpath("assets", name).read_bytes()
    return Response(content, headers={"Content-Type": _ASSETS[name], "Cache-Control": "max-age=3600"})


class _WithHeaders:
    """Adds the headers that keep strangers' text text, and other sites out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)
