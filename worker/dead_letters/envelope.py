"""The copies the worker makes of a delivery: dead letters with every reason, and retries. Pure.

The body is byte for byte what arrived. Of the properties only harmless ones are copied: `user_id` would be refused,
`expiration` would let the copy vanish, `CC` and `BCC` would route it where the publisher says, `reply_to` is not ours.
All headers together stay far below one frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import __version__, contract
from worker.codes import Problem
from worker.failure import fingerprint
from worker.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.codes import Code, FailureClass, Stage
    from worker.failure import Failure
    from worker.ports import Delivery

_MAX_TEXT_BYTES = 512
_MAX_SHORT_BYTES = 255
"""What an AMQP short string holds, such as a message id."""
_COMPACT = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
_MAX_PROBLEMS_BYTES = 8 * 1024
_MAX_ATTEMPT = 1_000_000
_MAX_TIME = 2**53


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a delivery is given up or retried, without a byte of its payload."""

    code: Code
    failure_class: FailureClass
    stage: Stage
    detail: str
    fingerprint: str
    pointer: str = ""
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of_problems(cls, problems: tuple[Problem, ...]) -> Reason:
        """Return the reason of an invalid message: its first problem names it, all of them travel along."""
        first = problems[0]
        spec = first.code.spec
        return cls(
            first.code,
            spec.failure_class,
            spec.stage,
            first.expected,
            fingerprint(first.code, spec.stage, first.pointer),
            first.pointer,
            problems,
        )

    @classmethod
    def of_failure(cls, failure: Failure) -> Reason:
        """Return the reason that a failure of the way gives."""
        return cls(failure.code, failure.failure_class, failure.stage, failure.detail, failure.fingerprint)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent the message and what it is about, as far as it could be read."""

    sender_id: str | None = None
    sender_name: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None


def attempt_of(delivery: Delivery) -> int:
    """Return which try of the message this delivery is, from 1. Nonsense in the header counts as the first."""
    return _header_int(delivery, contract.ATTEMPT, lowest=1, highest=_MAX_ATTEMPT) or 1


def dead_letter(delivery: Delivery, reason: Reason, identity: Identity, *, now: int, copy_id: str) -> Outgoing:
    """Return the letter for the dead-letter exchange.

    Args:
        delivery: what is given up.
        reason: why.
        identity: whose it is, as far as known.
        now: epoch milliseconds.
        copy_id: message id of the copy when the delivery has none.
    """
    headers = {
        contract.CODE: reason.code.value,
        contract.CLASS: reason.failure_class.value,
        contract.STAGE: reason.stage.value,
        contract.POINTER: reason.pointer,
        contract.DETAIL: reason.detail,
        contract.PROBLEMS: _problems_json(reason),
        **_history(delivery, reason, now),
        contract.ATTEMPT: attempt_of(delivery),
        contract.SENDER_ID: identity.sender_id,
        contract.SENDER_NAME: identity.sender_name,
        contract.MESSAGE_ID: identity.message_id,
        contract.CONVERSATION_ID: identity.conversation_id,
        contract.WORKER_VERSION: __version__,
    }
    return _copy(delivery, contract.DEAD_LETTERS, "", headers, copy_id)


def retry_copy(delivery: Delivery, reason: Reason, delay: str, *, attempt: int, now: int, copy_id: str) -> Outgoing:
    """Return the copy that waits in the retry tier *delay* and comes back as try number *attempt*."""
    headers = {
        contract.CODE: reason.code.value,
        contract.DETAIL: reason.detail,
        **_history(delivery, reason, now),
        contract.ATTEMPT: attempt,
    }
    return _copy(delivery, "", contract.retry_queue(delay), headers, copy_id)


def parked_copy(delivery: Delivery, *, copy_id: str) -> Outgoing:
    """Return a dead letter, as it is, for the queue of letters that no document can hold."""
    kept = {
        name: value for name in contract.LETTER_HEADERS if (value := delivery.properties.headers.get(name)) is not None
    }
    return _copy(delivery, "", contract.PARKED, kept, copy_id)


def _history(delivery: Delivery, reason: Reason, now: int) -> dict[str, object]:
    return {
        contract.FINGERPRINT: reason.fingerprint,
        contract.FIRST_FAILED_AT: _header_int(delivery, contract.FIRST_FAILED_AT, lowest=0, highest=_MAX_TIME) or now,
        contract.FAILED_AT: now,
        **_origin(delivery),
    }


def _origin(delivery: Delivery) -> dict[str, object]:
    """Return where the message entered: a retried one remembers, for the broker only knows its last stop."""
    headers = delivery.properties.headers
    if _is_copy(delivery):
        names = (contract.ORIGIN_EXCHANGE, contract.ORIGIN_ROUTING_KEY, contract.ORIGIN_QUEUE)
        return {name: headers.get(name) for name in names}
    return {
        contract.ORIGIN_EXCHANGE: delivery.exchange,
        contract.ORIGIN_ROUTING_KEY: delivery.routing_key,
        contract.ORIGIN_QUEUE: delivery.queue,
    }


def _copy(delivery: Delivery, exchange: str, routing_key: str, headers: Mapping[str, object], copy_id: str) -> Outgoing:
    properties = delivery.properties
    return Outgoing(
        exchange,
        routing_key,
        # As the broker will give it back: a return is matched by it, and a longer one would be cut on the wire.
        _bounded(properties.message_id or copy_id, _MAX_SHORT_BYTES),
        delivery.body,
        correlation_id=properties.correlation_id,
        type=properties.type,
        app_id=properties.app_id,
        timestamp=properties.timestamp,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers={**carried_headers(delivery), **_bounded_headers(headers)},
    )


def carried_headers(delivery: Delivery) -> dict[str, str | int]:
    """Return what goes from a delivery into everything made of it: its trace, and who the broker says published it."""
    properties = delivery.properties
    carried: dict[str, str | int] = {}
    if properties.headers:
        for name in (contract.TRACEPARENT, contract.TRACESTATE):
            value = properties.headers.get(name)
            if isinstance(value, str):
                carried[name] = _bounded(value)
    user = published_by(delivery)
    if user:
        carried[contract.USER_ID] = _bounded(user)
    return carried


def forget_pretence(delivery: Delivery, own_user: str | None) -> None:
    """Drop the headers that only our copies may have from a delivery that somebody else published.

    *own_user* is the user our copies are published by, as the broker vouches for it; None when they carry none. Then
    a publisher who carries none either can still pretend, and `cim-user-id` is no proof.
    """
    headers = delivery.properties.headers
    if headers and delivery.properties.user_id != own_user:
        for name in (*contract.LETTER_HEADERS, contract.USER_ID):
            headers.pop(name, None)


def published_by(delivery: Delivery) -> str | None:
    """Return the broker user that published the message, if the broker checked it; copies carry it in a header."""
    properties = delivery.properties
    if _is_copy(delivery):
        user = properties.headers.get(contract.USER_ID)
        return user if isinstance(user, str) else None
    return properties.user_id


def _is_copy(delivery: Delivery) -> bool:
    """Tell whether a worker made this. A publisher can pretend so; only diagnostics believe it."""
    headers = delivery.properties.headers
    return contract.FAILED_AT in headers and isinstance(headers.get(contract.ORIGIN_QUEUE), str)


def _header_int(delivery: Delivery, name: str, *, lowest: int, highest: int) -> int | None:
    value = delivery.properties.headers.get(name)
    return value if type(value) is int and lowest <= value <= highest else None


def _bounded_headers(headers: Mapping[str, object]) -> dict[str, str | int]:
    """Keep texts, cut, and 64-bit integers; a stranger may have put anything else under our names."""
    bounded: dict[str, str | int] = {}
    for name, value in headers.items():
        if isinstance(value, str):  # our own list of problems is shorter than its limit: it is cut by whole problems
            bounded[name] = _bounded(value, _MAX_PROBLEMS_BYTES if name == contract.PROBLEMS else _MAX_TEXT_BYTES)
        elif type(value) is int and -(2**63) <= value < 2**63:
            bounded[name] = value
    return bounded


def _bounded(text: str, limit: int = _MAX_TEXT_BYTES) -> str:
    """Cut a text to what a header may hold, at a character boundary."""
    if len(text) * 4 <= limit:
        return text
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _problems_json(reason: Reason) -> str:
    problems: Sequence[Problem] = reason.problems or (Problem(reason.code, reason.pointer, reason.detail),)
    entries = [
        {"code": problem.code.value, "pointer": _bounded(problem.pointer), "expected": _bounded(problem.expected)}
        for problem in problems
    ]
    text = _COMPACT.encode(entries)
    while len(text) > _MAX_PROBLEMS_BYTES and len(entries) > 1:
        entries.pop()
        text = _COMPACT.encode(entries)
    return text
