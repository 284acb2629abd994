"""POST of one activity: from the request to the answer."""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from worker import contract
from worker.cim import CimMessage, Rejected, parse
from worker.cim.decode import with_id
from worker.cim.timestamps import FIRST_MS
from worker.codes import Code, Problem
from worker.outcome import Outcome
from worker.ports import Confirmation, Outgoing
from worker.web.gateway.answers import JSON, Answer, Refused, refused_for
from worker.web.gateway.ingress import Unavailable
from worker.web.gateway.reading import BUSY_SECONDS, Body, Budget, read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Receive, Scope, Send

    from worker.web.gateway.callers import Caller, Door
    from worker.web.gateway.ingress import Ingress
    from worker.web.gateway.reading import Head
    from worker.web.gateway.receipts import Receipts

_PREFIX: Final = "/conversation-manager"
PATHS: Final = (f"{_PREFIX}/activities", "/activities", f"{_PREFIX}/activites", "/activites")
"""Where activities are taken: with the prefix, and without it, as behind an ingress that cuts it off; the last two are
misspellings that deployed configurations have."""
APP_ID: Final = "cim-gateway"
TENANT_ID: Final = "tenantid"
RETRY_SECONDS: Final = 2
"""When to come back after 503."""
_NO_TIME: Final = FIRST_MS - 1
"""Stands in for a missing timestamp, as no message has it."""
_ID_BYTES: Final = 12
_WAITED: Final = (JSON, (b"preference-applied", b"wait"))
_CODES: Final = frozenset(map(str, Code))
_STATUS: Final = {Code.MESSAGE_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
_NOT_TAKEN: Final = {
    Confirmation.RETURNED: "The broker has no queue for activities.",
    Confirmation.NACKED: "The queue for activities is full.",
    Confirmation.UNKNOWN: "The broker did not confirm in time. Send it again: the same message twice does no harm.",
}
_SENDER: Final = Problem(
    Code.SENDER_NOT_ALLOWED, "/header/sender/id", "A sender id that the roles of this token may use."
)


class _Accepted(NamedTuple):
    """A message as it goes to ingress."""

    message: CimMessage
    body: bytes


class Activities:
    """Takes activities: an ASGI app for POST."""

    def __init__(
        self,
        door: Door,
        ingress: Ingress,
        receipts: Receipts,
        *,
        max_bytes: int,
        budget: Budget,
        max_in_flight: int,
        answered: Callable[[int, float], None],
    ) -> None:
        """Take bodies of at most *max_bytes*, and hold *max_in_flight* publishes and *budget* at most.

        *answered* is told the status of every answer and after how many seconds it was there.
        """
        self._door = door
        self._ingress = ingress
        self._receipts = receipts
        self._max_bytes = max_bytes
        self._budget = budget
        self._max_in_flight = max_in_flight
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = perf_counter()
        body = Body(self._budget)
        try:
            answer = await self._answer(scope, receive, body)
        except Refused as refused:
            answer = refused.answer(scope["path"])
        finally:
            body.release()
        self._answered(answer.status, perf_counter() - began)
        await answer.send(send)

    async def _answer(self, scope: Scope, receive: Receive, body: Body) -> Answer:
        head = read_head(scope)
        caller = await self._door.caller(head.authorization)
        self._refuse_if_busy()
        content = await body.read(receive, head.length, self._max_bytes)
        if head.encoding is not None:
            content = body.unpack(content, head.encoding, self._max_bytes)
        accepted = self._accept(content, head.idempotency_key)
        if not caller.may_send_as(accepted.message.sender_id):
            raise refused_for(HTTPStatus.FORBIDDEN, (_SENDER,))
        if head.wait_seconds is not None and self._receipts.reply_to is not None:
            return await self._publish_and_wait(accepted, head, caller, head.wait_seconds)
        await self._publish(_outgoing(accepted, head, caller))
        return _accepted(accepted.message)

    async def _publish_and_wait(self, accepted: _Accepted, head: Head, caller: Caller, seconds: float) -> Answer:
        deadline = perf_counter() + seconds
        event_id = accepted.message.event_id
        outcome = self._receipts.expect(event_id)
        try:
            await self._publish(_outgoing(accepted, head, caller)._replace(reply_to=self._receipts.reply_to))
            async with asyncio.timeout(max(0.0, deadline - perf_counter())):
                return _settled(accepted.message, await outcome)
        except TimeoutError:
            return _accepted(accepted.message, _WAITED)
        finally:
            self._receipts.forget(event_id, outcome)

    def _refuse_if_busy(self) -> None:
        if self._ingress.in_flight >= self._max_in_flight:
            message = "Too many requests are in progress."
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_seconds=BUSY_SECONDS)

    def _accept(self, content: bytes, key: str | None) -> _Accepted:
        """Return the message in *content*. Raises `Refused` with everything that is wrong with it."""
        message = self._parse(content, key)
        if message.timestamp == _NO_TIME and key is None:
            # Without an id either, nothing tells it from another one of the same content, which it may well be.
            identified = with_id(content, secrets.token_hex(_ID_BYTES))
            if identified is not content:
                return _Accepted(self._parse(identified, key), identified)
        return _Accepted(message, content)

    def _parse(self, content: bytes, key: str | None) -> CimMessage:
        message = parse(content, received_at=_NO_TIME, max_bytes=self._max_bytes, idempotency_key=key)
        if isinstance(message, Rejected):
            raise refused_for(_STATUS.get(message.first.code, HTTPStatus.BAD_REQUEST), message.problems)
        return message

    async def _publish(self, message: Outgoing) -> None:
        try:
            confirmation = await self._ingress.publish(message)
        except Unavailable as reason:
            raise _unavailable(str(reason)) from None
        if confirmation is Confirmation.CONFIRMED:
            return
        if confirmation is Confirmation.TOO_LARGE:
            problem = Problem(Code.MESSAGE_TOO_LARGE, "", "A message that the broker takes; send a link instead.")
            raise refused_for(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, (problem,))
        raise _unavailable(_NOT_TAKEN[confirmation])


def _outgoing(accepted: _Accepted, head: Head, caller: Caller) -> Outgoing:
    message = accepted.message
    carried = {
        contract.USER_ID: caller.name,
        contract.IDEMPOTENCY_KEY: head.idempotency_key,
        contract.TRACEPARENT: head.traceparent,
        TENANT_ID: head.tenant_id,
    }
    return Outgoing(
        contract.INGRESS,
        message.conversation_id or message.channel_session_id or message.customer_id or "",
        message.id,
        accepted.body,
        correlation_id=head.correlation_id,
        app_id=APP_ID,
        headers={name: value for name, value in carried.items() if value is not None} or None,
    )


def _accepted(message: CimMessage, headers: Sequence[tuple[bytes, bytes]] = (JSON,)) -> Answer:
    document = {"id": message.id, "eventId": message.event_id, "status": "accepted"}
    return Answer(HTTPStatus.OK.value, orjson.dumps(document), headers)


def _settled(message: CimMessage, receipt: dict[str, Any]) -> Answer:
    """Return what became of it. Raises `Refused` when it died."""
    identity = {"id": message.id, "eventId": message.event_id}
    if receipt["outcome"] == Outcome.DEAD.value:
        code = receipt["code"]
        meaning = Code(code).spec.meaning if code in _CODES else "The workers gave it up."
        facts = {**identity, "problems": receipt["problems"]}
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, meaning, code=code, headers=_WAITED[1:], facts=facts)
    known = {name: receipt[name] for name in ("conversationId", "reason") if receipt.get(name) is not None}
    return Answer(HTTPStatus.OK.value, orjson.dumps({**identity, "status": receipt["outcome"], **known}), _WAITED)


def _unavailable(message: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after_seconds=RETRY_SECONDS)
