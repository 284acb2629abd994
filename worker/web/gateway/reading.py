"""What a request brings: the headers that mean something here, and its body within limits."""

from __future__ import annotations

import re
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.cim.encoding import too_large, unpack
from worker.cim.ids import has_control_character
from worker.codes import Code, Problem
from worker.web.gateway.answers import Refused, refused_for

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

BODY_SECONDS: Final = 10.0
"""Longest time a client may take to send its body."""
MAX_HEAD_BYTES: Final = 32 * 1024
"""Of request line and headers: tokens that name hundreds of roles take kilobytes."""
MAX_WAIT_SECONDS: Final = 8.0
"""Longest wait for a receipt: gateways and clients of the platform give up after ten seconds."""
BUSY_SECONDS: Final = 1
"""When to come back after 429."""
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)
_MEDIA_TYPES: Final = frozenset({"application/json", "text/json"})
_ENCODINGS: Final = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
MAX_CARRIED_BYTES: Final = 255
"""AMQP's short strings."""
_LATE: Final = f"The body did not arrive within {BODY_SECONDS:g} seconds."


class Head(NamedTuple):
    """The headers of a request that mean something here."""

    authorization: bytes | None
    length: int | None
    """Bytes of the body, when the client says so."""
    encoding: str | None
    """How the body is packed."""
    idempotency_key: str | None
    wait_seconds: float | None
    """How long to wait for the outcome; None: do not wait."""
    correlation_id: str | None
    tenant_id: str | None
    traceparent: str | None


def read_head(scope: Scope) -> Head:
    """Return what the headers say. Raises `Refused` for what cannot be taken: 400, 415."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    _check_media_type(headers.get(b"content-type"))
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if encoding not in _ENCODINGS:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding may be gzip or deflate.")
    length = headers.get(b"content-length", b"")
    preference = headers.get(b"prefer")
    return Head(
        headers.get(b"authorization"),
        int(length) if length.isdigit() else None,
        encoding or None,
        _text(headers.get(b"idempotency-key"), "Idempotency-Key"),
        None if preference is None else wait_seconds(preference.decode("latin-1")),
        _text(headers.get(b"correlationid"), "correlationId"),
        _text(headers.get(b"tenantid"), "tenantid"),
        _text(headers.get(b"traceparent"), "traceparent"),
    )


def wait_seconds(preference: str) -> float | None:
    """Return what the header Prefer says about waiting (RFC 7240), at most `MAX_WAIT_SECONDS`; None when nothing."""
    found = _WAIT.search(preference)
    return None if found is None else min(float(found[1]), MAX_WAIT_SECONDS)


class Budget:
    """How many bytes of bodies the process may hold; those still arriving may be half of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        """Bytes held now."""
        self._arriving = 0

    def take(self, size: int, *, arriving: bool) -> None:
        """Count *size* bytes of a body, which is still *arriving* or complete. Raises `Refused` (429): no room.

        However many clients send slowly, there is room for those that send at once.
        """
        if self.held + size > self._most or (arriving and self._arriving + size > self._most // 2):
            message = "Too many requests are in progress."
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_seconds=BUSY_SECONDS)
        self.held += size
        self._arriving += size if arriving else 0

    def arrived(self, size: int) -> None:
        """Count *size* arriving bytes as those of a complete body."""
        self._arriving -= size

    def release(self, size: int) -> None:
        """Count *size* bytes as free again."""
        self.held -= size


class Body:
    """The body of one request, whose bytes count as held from their arrival to `release`."""

    __slots__ = ("_arriving", "_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0
        self._arriving = 0

    async def read(self, receive: Receive, length: int | None, max_bytes: int) -> bytes:
        """Return the body. Raises `Refused`: 413 before more than *max_bytes* were read, 408, 429, 400."""
        if length is not None and length > max_bytes:
            raise _too_large(max_bytes)
        parts: list[bytes] = []
        until = perf_counter() + BODY_SECONDS
        try:
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    raise Refused(HTTPStatus.BAD_REQUEST, "The client went away before its body was complete.")
                more = event.get("more_body", False)
                parts.append(self._hold(event.get("body", b""), max_bytes, more=more))
                if not more:
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                if perf_counter() > until:  # looked at no later than a second after: the server wakes those who read
                    raise Refused(HTTPStatus.REQUEST_TIMEOUT, _LATE, headers=((b"connection", b"close"),))
        finally:
            self._budget.arrived(self._arriving)

    def unpack(self, packed: bytes, encoding: str, max_bytes: int) -> bytes:
        """Return what is in *packed*, which counts as held as well. Raises `Refused`: 413, 400, 429."""
        content = unpack(packed, encoding, max_bytes=max_bytes)
        if isinstance(content, Problem):
            is_large = content.code is Code.MESSAGE_TOO_LARGE
            raise refused_for(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_large else HTTPStatus.BAD_REQUEST, (content,))
        self._budget.take(len(content), arriving=False)
        self._held += len(content)
        return content

    def release(self) -> None:
        """Free what is held."""
        self._budget.release(self._held)
        self._held = 0

    def _hold(self, part: bytes, max_bytes: int, *, more: bool) -> bytes:
        size = len(part)
        if self._held + size > max_bytes:
            raise _too_large(max_bytes)
        self._budget.take(size, arriving=more)
        self._held += size
        self._arriving += size if more else 0
        return part


def _check_media_type(value: bytes | None) -> None:
    if value == b"application/json":
        return
    media_type = (value or b"").partition(b";")[0].strip().lower().decode("latin-1")
    if media_type not in _MEDIA_TYPES and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON: `Content-Type: application/json`.")


def _text(value: bytes | None, name: str) -> str | None:
    """Return a header's text, without the quotes it may have; None when it is absent or blank. Raises `Refused`."""
    if value is None:
        return None
    try:
        text = value.decode().strip(" \t")
    except UnicodeDecodeError:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} is not UTF-8.") from None
    if len(value) > MAX_CARRIED_BYTES:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} has more than {MAX_CARRIED_BYTES} bytes.")
    if has_control_character(text):  # a tab, or one of those that UTF-8 writes in two bytes
        raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} has a control character.")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text if text.strip() else None


def _too_large(max_bytes: int) -> Refused:
    return refused_for(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, (too_large(max_bytes),))
