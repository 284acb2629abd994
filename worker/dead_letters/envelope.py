"""The copies the worker makes of a delivery: dead letters with every reason, retries, and those that wait. No I/O.

The body is byte for byte what arrived. Of the properties only harmless ones are copied: `user_id` would be refused,
`expiration` would let the copy vanish, `CC` and `BCC` would route it where the publisher says, `reply_to` is not ours.
All headers together stay below the usual frame; the publisher cuts them for a connection whose frames are smaller.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from worker import __version__, contract
from worker.codes import Problem
from worker.dead_letters.provenance import (
    RESERVED,
    attempt_of,
    header_int,
    is_copy,
    published_by,
    refused_before,
    reply_to,
)
from worker.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.cim import Identity
    from worker.failure import Failure
    from worker.ports import Delivery

_MAX_TEXT_BYTES = 512
_MAX_SHORT_BYTES = 255
"""What an AMQP short string holds, such as a message id."""
_COMPACT = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
_MAX_PROBLEMS_BYTES = 8 * 1024
_MAX_TIME = 2**53


def dead_letter(delivery: Delivery, failure: Failure, identity: Identity, *, now: int, copy_id: str) -> Outgoing:
    """Return the letter for the dead-letter exchange.

    Args:
        delivery: what is given up.
        failure: why.
        identity: whose it is, as far as known.
        now: epoch milliseconds.
        copy_id: message id of the copy when the delivery has none.
    """
    headers = {
        contract.CODE: failure.code.value,
        contract.CLASS: failure.failure_class.value,
        contract.STAGE: failure.stage.value,
        contract.POINTER: failure.pointer,
        contract.DETAIL: failure.detail,
        contract.PROBLEMS: _problems_json(failure),
        **_history(delivery, failure, now),
        contract.ATTEMPT: attempt_of(delivery),
        contract.SENDER_ID: identity.sender_id,
        contract.SENDER_NAME: identity.sender_name,
        contract.MESSAGE_ID: identity.message_id,
        contract.CONVERSATION_ID: identity.conversation_id,
        contract.WORKER_VERSION: __version__,
    }
    return _copy(delivery, contract.DEAD_LETTERS, "", headers, copy_id)


def retry_copy(delivery: Delivery, failure: Failure, delay: str, *, attempt: int, now: int, copy_id: str) -> Outgoing:
    """Return the copy that waits in the retry tier *delay* and comes back as try number *attempt*."""
    headers = _comes_again(delivery, failure, attempt, now)
    return _copy(delivery, "", contract.retry_queue(delay), headers, copy_id)


def waiting_copy(
    delivery: Delivery,
    failure: Failure,
    *,
    now: int,
    copy_id: str,
    suspected: bool = False,
    because: str | None = None,
) -> Outgoing:
    """Return the copy that waits for the store, for the reason *failure*, and spends no attempt.

    *suspected* says that the store failed for this message, and that it may be the message's own fault. *because*, if
    given, is why it is stored, whoever listens when it comes back.
    """
    headers = _comes_again(delivery, failure, attempt_of(delivery), now)
    if suspected:
        headers[contract.SUSPECTED_AT] = now
    if because is not None:
        headers[contract.STORED_BECAUSE] = because
    return _copy(delivery, "", contract.WAITING, headers, copy_id)


def moved_copy(delivery: Delivery, key: str, *, copy_id: str) -> Outgoing:
    """Return the copy that goes to the partition of *key*: the same message, with all that we know of it.

    Only for a delivery whose reserved headers are stripped where they are not to be believed.
    """
    headers = {**_kept(delivery, RESERVED), **_origin(delivery), **_reply_address(delivery)}
    return _copy(delivery, contract.PARTITIONS, key, headers, copy_id)


def partition_key(delivery: Delivery) -> str | None:
    """Return the routing key that one of our copies entered the ingress exchange with; None for any other delivery."""
    headers = delivery.properties.headers
    key = (
        headers.get(contract.ORIGIN_ROUTING_KEY)
        if is_copy(delivery) and headers.get(contract.ORIGIN_EXCHANGE)
        else None
    )
    return key if isinstance(key, str) else None


def parked_copy(delivery: Delivery, *, copy_id: str) -> Outgoing:
    """Return a dead letter, as it is, for the queue of letters that no document can hold."""
    kept = {
        name: value for name in contract.LETTER_HEADERS if (value := delivery.properties.headers.get(name)) is not None
    }
    return _copy(delivery, "", contract.PARKED, kept, copy_id)


def _comes_again(delivery: Delivery, failure: Failure, attempt: int, now: int) -> dict[str, object]:
    headers: dict[str, object] = {
        contract.CODE: failure.code.value,
        contract.DETAIL: failure.detail,
        **_history(delivery, failure, now),
        contract.ATTEMPT: attempt,
    }
    if refused := refused_before(delivery):
        headers[contract.REFUSED] = refused
    return headers | _kept(delivery, (contract.STORED_BECAUSE,)) | _reply_address(delivery)


def _history(delivery: Delivery, failure: Failure, now: int) -> dict[str, object]:
    return {
        contract.FINGERPRINT: failure.fingerprint,
        contract.FIRST_FAILED_AT: header_int(delivery, contract.FIRST_FAILED_AT, lowest=0, highest=_MAX_TIME) or now,
        contract.FAILED_AT: now,
        **_origin(delivery),
    }


def _origin(delivery: Delivery) -> dict[str, object]:
    """Return where the message entered: a retried one remembers, for the broker only knows its last stop."""
    headers = delivery.properties.headers
    if is_copy(delivery):
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
        shortened(properties.message_id or copy_id, _MAX_SHORT_BYTES),
        delivery.body,
        correlation_id=properties.correlation_id,
        type=properties.type,
        app_id=properties.app_id,
        timestamp=properties.timestamp,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers={**carried_headers(delivery), **_bounded_headers({**_kept(delivery, _KEPT), **headers})},
    )


_KEPT = (contract.IDEMPOTENCY_KEY, contract.REPLAY_OF, contract.REPLAY_JOB)
"""Part of what the message is: without its key the copy would be another one when it comes back; and whoever replayed
it waits for its outcome."""
_WANTED = (contract.RECEIPTS,)


def _kept(delivery: Delivery, names: Sequence[str]) -> dict[str, object]:
    headers = delivery.properties.headers
    return {name: headers[name] for name in names if name in headers} if headers else {}


def _reply_address(delivery: Delivery) -> dict[str, object]:
    """Return where the publisher wants its receipt, in our own headers; a letter has none: it is the final outcome."""
    address = reply_to(delivery.properties)
    return {} if address is None else {contract.REPLY_TO: address, **_kept(delivery, _WANTED)}


def carried_headers(delivery: Delivery) -> dict[str, str | int]:
    """Return what goes from a delivery into everything made of it: its trace, and who the broker says published it."""
    properties = delivery.properties
    carried: dict[str, str | int] = {}
    if properties.headers:
        for name in (contract.TRACEPARENT, contract.TRACESTATE):
            value = properties.headers.get(name)
            if isinstance(value, str):
                carried[name] = shortened(value)
    user = published_by(delivery)
    if user:
        carried[contract.USER_ID] = shortened(user)
    return carried


def _bounded_headers(headers: Mapping[str, object]) -> dict[str, str | int]:
    """Keep texts, cut, and 64-bit integers; a stranger may have put anything else under our names."""
    bounded: dict[str, str | int] = {}
    for name, value in headers.items():
        if isinstance(value, str):  # our own list of problems is shorter than its limit: it is cut by whole problems
            bounded[name] = shortened(value, _MAX_PROBLEMS_BYTES if name == contract.PROBLEMS else _MAX_TEXT_BYTES)
        elif type(value) is int and -(2**63) <= value < 2**63:
            bounded[name] = value
    return bounded


def shortened(text: str, limit: int = _MAX_TEXT_BYTES) -> str:
    """Cut a text to what a header may hold, at a character boundary; message and sender ids have no limit."""
    if len(text) * 4 <= limit:
        return text
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def problem_entries(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Return *problems* as JSON, each text cut to what a header may hold."""
    return [
        {"code": problem.code.value, "pointer": shortened(problem.pointer), "expected": shortened(problem.expected)}
        for problem in problems
    ]


def _problems_json(failure: Failure) -> str:
    entries = problem_entries(failure.problems or (Problem(failure.code, failure.pointer, failure.detail),))
    text = _COMPACT.encode(entries)
    while len(text) > _MAX_PROBLEMS_BYTES and len(entries) > 1:
        entries.pop()
        text = _COMPACT.encode(entries)
    return text
