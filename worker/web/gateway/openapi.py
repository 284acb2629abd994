"""The gateway's contract as an OpenAPI 3.1 document and as a page, made of the models that the code uses. No I/O."""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Annotated, Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from pydantic import Field

from worker import __version__
from worker.cim.ids import MAX_ID_BYTES
from worker.schemas.generate import SHARED, Document, EventId, Reason, ReasonCode, definitions, one_of
from worker.schemas.message import message_parts
from worker.schemas.receipt import FoundProblem
from worker.schemas.samples import MESSAGE, parsed
from worker.web.gateway.activities import PATHS
from worker.web.gateway.reading import BODY_SECONDS, MAX_CARRIED_BYTES, MAX_HEAD_BYTES, MAX_WAIT_SECONDS

_ACCEPTED: Final = "accepted"
_STATUSES: Final = (_ACCEPTED, "published", "stored", "duplicate", "delayed")


class Accepted(Document):
    """What became of the request."""

    id: str = Field(description="The message's id: the one that was sent, or the one it was given.")
    eventId: EventId
    status: Annotated[
        str, one_of(_STATUSES, "`accepted`: it is in the queue, and the rest is certain to follow. More after waiting.")
    ]
    conversationId: str | None = Field(default=None, description="Where it went, after waiting.")
    reason: Reason | None = Field(default=None, description="Why it was stored, after waiting.")


class Failed(Document):
    """Why a request was not accepted, in the shape that clients of the platform's API read."""

    timestamp: str = Field(description="When, in ISO-8601.")
    status: int = Field(description="The HTTP status.")
    error: str = Field(description="The name of the status.")
    message: str = Field(description="What is wrong, for people.")
    path: str | None = Field(default=None, description="Absent when the request could not be read.")
    code: ReasonCode | None = None
    problems: list[FoundProblem] | None = Field(default=None, description="Everything that is wrong, at most twenty.")
    id: str | None = Field(default=None, description="The message's id, when it died after it was accepted.")
    eventId: EventId | None = None


class Health(Document):
    """Whether the gateway is as it should be."""

    live: bool | None = None
    ready: bool | None = None
    reasons: list[str] | None = Field(default=None, description="Why it is not ready.")


_FAILURES: Final = {
    HTTPStatus.BAD_REQUEST: "The message or a header is wrong; `problems` lists everything. Do not send it again.",
    HTTPStatus.UNAUTHORIZED: "The bearer token is missing, has expired or is not valid. Get a new one and send again.",
    HTTPStatus.FORBIDDEN: "The roles of the token do not allow to send, or not as this sender.",
    HTTPStatus.REQUEST_TIMEOUT: f"The body did not arrive within {BODY_SECONDS:g} seconds.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than CIM_MAX_MESSAGE_BYTES; send a link instead.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Not JSON, or packed in a way other than gzip and deflate.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "After waiting: the message was accepted, and then given up; `code` says why.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"Request line and headers have more than {MAX_HEAD_BYTES} bytes.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too much is in progress. Send again after the seconds in `Retry-After`.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The broker is away, blocked or did not confirm in time. Send again after the "
    "seconds in `Retry-After`: the same message twice does no harm.",
}
_RETRIED: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_HEADERS: Final = {
    "Idempotency-Key": "For clients that rebuild a message to resend it: equal keys of one sender are one activity.",
    "Prefer": f"`wait=SECONDS`: answer with what became of the message, if that is known in time (at most "
    f"{MAX_WAIT_SECONDS:g} seconds).",
    "tenantid": "Carried to the queue.",
    "correlationId": "Becomes the correlation id of the message, and of its event.",
    "traceparent": "W3C trace context, carried through.",
}
_DESCRIPTION: Final = (
    "Takes activities of third-party apps, as the platform's own API does. A message is checked as the workers check "
    "it, put on their queue, and answered 200 once the broker has confirmed it. Two requests with the same message are "
    "one activity, so a request without an answer is sent again."
)


def openapi(*, authenticated: bool) -> dict[str, Any]:
    """Return the document; *authenticated* says whether callers are asked for a token."""
    parts = {**SHARED, **message_parts(), **definitions(Accepted, Failed, FoundProblem, Health)}
    security: list[dict[str, Any]] = [{"bearer": []}] if authenticated else [{}]
    paths = {path: {"post": _post(path, security)} for path in PATHS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Activities", "version": __version__, "description": _DESCRIPTION},
        "paths": {**paths, "/livez": {"get": _health("live", [200])}, "/readyz": {"get": _health("ready", [200, 503])}},
        "components": {
            "schemas": _moved(parts),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(path: str, security: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "operationId": "post" + "".join(part.title() for part in re.split("[/-]", path)),
        "summary": "Push one activity",
        "deprecated": path.endswith("activites"),
        "security": security,
        "parameters": [
            {"name": name, "in": "header", "required": False, "description": text, "schema": _text_of(name)}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("CimMessage"), "example": MESSAGE}},
        },
        "responses": {
            "200": {
                "description": "The message is in the queue, or, after waiting, where it belongs.",
                "headers": {"Preference-Applied": _header("That the request waited.")},
                "content": {"application/json": {"schema": _ref("Accepted"), "example": _accepted()}},
            },
            **{str(status.value): _failure(status, text) for status, text in _FAILURES.items()},
        },
    }


def _failure(status: HTTPStatus, text: str) -> dict[str, Any]:
    headers = {"Retry-After": _header("Seconds.")} if status in _RETRIED else {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": _header("Bearer.")}
    content = {"application/json": {"schema": _ref("Failed")}}
    return {"description": text, **({"headers": headers} if headers else {}), "content": content}


def _health(name: str, statuses: list[int]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Health")}}
    responses = {str(status): {"description": f"Whether it is {name}.", "content": content} for status in statuses}
    return {"operationId": name, "summary": f"Is it {name}?", "security": [{}], "responses": responses}


def _accepted() -> dict[str, Any]:
    message = parsed()
    return {"id": message.id, "eventId": message.event_id, "status": _ACCEPTED}


def _text_of(name: str) -> dict[str, Any]:
    """Return what the header *name* may hold; all but one are carried to the queue."""
    if name == "Prefer":
        return {"type": "string"}
    longest = MAX_ID_BYTES if name == "Idempotency-Key" else MAX_CARRIED_BYTES
    return {"type": "string", "maxLength": longest, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"}


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _moved(value: Any) -> Any:
    """Return *value* with its references to parts as OpenAPI has them."""
    if isinstance(value, dict):
        return {key: _moved_reference(part) if key == "$ref" else _moved(part) for key, part in value.items()}
    return [_moved(part) for part in value] if isinstance(value, list) else value


def _moved_reference(target: str) -> str:
    return target.replace("#/$defs/", "#/components/schemas/")


def page(*, authenticated: bool) -> str:
    """Return the contract as a page for people."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("worker.web.gateway"), PackageLoader("worker.schemas")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("gateway.html").render(
        version=__version__,
        description=_DESCRIPTION,
        authenticated=authenticated,
        paths=PATHS,
        headers=_HEADERS,
        failures=_FAILURES,
        example=json.dumps(MESSAGE, separators=(",", ":")),
        answer=json.dumps(_accepted()),
    )
