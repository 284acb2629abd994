"""From a letter in the dead-letter queue to its record: ours, the broker's own, or a stranger's. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json

from worker import contract
from worker.cim import parse
from worker.cim.decode import Decoded, decode
from worker.cim.encoding import unpack
from worker.cim.problems import text_at
from worker.codes import Code, Problem
from worker.dead_letters.letter import LetterProblem, LetterRecord, letter_id
from worker.dead_letters.provenance import believed_headers
from worker.failure import fingerprint

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from worker.ports import Delivery

_BY_BROKER_REASON = {
    "delivery_limit": Code.DELIVERY_LIMIT,
    "expired": Code.BROKER_EXPIRED,
    "maxlen": Code.BROKER_MAXLEN,
    "rejected": Code.BROKER_REJECTED,
}
_REPLAYED = ("message_id", "correlation_id", "content_type", "content_encoding", "type", "app_id", "timestamp")
_TELL_APART = (contract.USER_ID, contract.IDEMPOTENCY_KEY, contract.REPLAY_OF)
"""Headers by which letters of the same bytes are about different messages: other publisher, other key, a replay."""
_MAX_HEADERS = 100
_MAX_VALUE = 2048
_MAX_BYTES = 1024 * 1024
"""Of bodies in which the customer is looked for."""
_RETRY_PREFIX = contract.retry_queue("")


class _Origin(NamedTuple):
    """Where a message entered."""

    exchange: str
    routing_key: str
    queue: str


def read_letter(delivery: Delivery, *, recorded_at: int, trusted: Collection[str | None] | None = None) -> LetterRecord:
    """Return the record of a letter, whoever wrote it. Never raises, whatever the headers.

    A letter without our reasons gets the broker's (`x-death`), or `foreign_letter`; its sender is read from the body
    if that is a CIM message. Our headers are believed if the broker vouches that one of the *trusted* users published
    it, else they are only kept to be looked at; None believes them always. *recorded_at* is epoch ms.
    """
    headers = delivery.properties.headers if trusted is None else believed_headers(delivery, trusted)
    by_us = _text(headers.get(contract.CODE)) and _text(headers.get(contract.WORKER_VERSION))
    if by_us and not _first_death(headers):  # our copies carry no trace of the broker's dead-lettering
        return _ours(delivery, headers, recorded_at)
    return _not_ours(delivery, headers, recorded_at)


def id_of_ours(body: bytes, headers: Mapping[str, Any]) -> str:
    """Return the id under which a letter of ours will be recorded, from what is sent to the dead letters."""
    names = (contract.FINGERPRINT, contract.ORIGIN_QUEUE, *_TELL_APART)
    return letter_id(body, *(_text(headers.get(name)) for name in names))


def _ours(delivery: Delivery, headers: Mapping[str, Any], recorded_at: int) -> LetterRecord:
    failed_at = _integer(headers.get(contract.FAILED_AT))
    return LetterRecord(
        id=id_of_ours(delivery.body, headers),
        code=_text(headers.get(contract.CODE)),
        failure_class=_text(headers.get(contract.CLASS)),
        stage=_text(headers.get(contract.STAGE)),
        fingerprint=_text(headers.get(contract.FINGERPRINT)),
        failed_at=failed_at,
        recorded_at=recorded_at,
        first_seen=recorded_at if failed_at is None else failed_at,
        last_seen=recorded_at if failed_at is None else failed_at,
        body=delivery.body,
        pointer=_text(headers.get(contract.POINTER)),
        detail=_text(headers.get(contract.DETAIL)),
        problems=_problems(headers.get(contract.PROBLEMS)),
        attempt=_integer(headers.get(contract.ATTEMPT)),
        first_failed_at=_integer(headers.get(contract.FIRST_FAILED_AT)),
        origin_exchange=_text(headers.get(contract.ORIGIN_EXCHANGE)),
        origin_routing_key=_text(headers.get(contract.ORIGIN_ROUTING_KEY)),
        origin_queue=_text(headers.get(contract.ORIGIN_QUEUE)),
        sender_id=_text(headers.get(contract.SENDER_ID)),
        sender_name=_text(headers.get(contract.SENDER_NAME)),
        message_id=_text(headers.get(contract.MESSAGE_ID)),
        conversation_id=_text(headers.get(contract.CONVERSATION_ID)),
        worker_version=_text(headers.get(contract.WORKER_VERSION)),
        traceparent=_text(headers.get(contract.TRACEPARENT)),
        user_id=_text(headers.get(contract.USER_ID)),
        customer_id=_customer_of(delivery),
        idempotency_key=_text(headers.get(contract.IDEMPOTENCY_KEY)),
        replay_of=_text(headers.get(contract.REPLAY_OF)),
        replay_job=_text(headers.get(contract.REPLAY_JOB)),
        headers=_pairs(delivery.properties.headers),
        properties=_properties(delivery),
        redelivered=delivery.redelivered,
    )


def _not_ours(delivery: Delivery, headers: Mapping[str, Any], recorded_at: int) -> LetterRecord:
    death = _first_death(headers)
    code = _BY_BROKER_REASON.get(_text(death.get("reason")), Code.FOREIGN_LETTER)
    identity = parse(delivery.body, received_at=recorded_at).identity
    died_at = _integer(death.get("time"))
    failed_at = died_at * 1000 if died_at is not None and abs(died_at) < 10**11 else died_at
    queue = _text(death.get("queue"))
    origin = _origin(delivery, death, headers)
    return LetterRecord(
        id=letter_id(delivery.body, code.value, queue, *(_text(headers.get(name)) for name in _TELL_APART)),
        code=code.value,
        failure_class=code.spec.failure_class.value,
        stage=code.spec.stage.value,
        fingerprint=fingerprint(code, code.spec.stage, "", _text(death.get("queue"))),
        failed_at=failed_at,
        recorded_at=recorded_at,
        first_seen=recorded_at if failed_at is None else failed_at,
        last_seen=recorded_at if failed_at is None else failed_at,
        body=delivery.body,
        detail=code.spec.meaning,
        attempt=_integer(headers.get(contract.ATTEMPT)),
        origin_exchange=origin.exchange,
        origin_routing_key=origin.routing_key,
        origin_queue=origin.queue,
        sender_id=identity.sender_id or "",
        sender_name=identity.sender_name or "",
        message_id=identity.message_id or "",
        conversation_id=identity.conversation_id or "",
        traceparent=_text(headers.get(contract.TRACEPARENT)),
        user_id=_user_of(delivery, headers),
        customer_id=_customer_of(delivery),
        idempotency_key=_text(headers.get(contract.IDEMPOTENCY_KEY)),
        replay_of=_text(headers.get(contract.REPLAY_OF)),
        replay_job=_text(headers.get(contract.REPLAY_JOB)),
        headers=_pairs(delivery.properties.headers),
        properties=_properties(delivery),
        redelivered=delivery.redelivered,
    )


def _origin(delivery: Delivery, death: Mapping[str, Any], headers: Mapping[str, Any]) -> _Origin:
    """Return where a message entered; one of our copies says so itself where the broker knows only its last stop."""
    queue = _text(death.get("queue"))
    entered = _text(headers.get(contract.ORIGIN_QUEUE))
    if entered and (queue == contract.WAITING or queue.startswith(_RETRY_PREFIX)):
        names = (contract.ORIGIN_EXCHANGE, contract.ORIGIN_ROUTING_KEY, contract.ORIGIN_QUEUE)
        return _Origin(*(_text(headers.get(name)) for name in names))
    keys = death.get("routing-keys")
    key = _text(keys[0]) if isinstance(keys, list) and keys else delivery.routing_key
    return _Origin(_text(death.get("exchange")) if death else delivery.exchange, key, queue)


def _user_of(delivery: Delivery, headers: Mapping[str, Any]) -> str:
    """Return who published a message that the broker gave up: a copy and a replay carry that in a header."""
    if contract.ORIGIN_QUEUE in headers or contract.REPLAY_OF in headers:
        return _text(headers.get(contract.USER_ID))
    return delivery.properties.user_id or ""


def _customer_of(delivery: Delivery) -> str:
    body, encoding = delivery.body, delivery.properties.content_encoding
    if encoding:
        unpacked = unpack(body, encoding, max_bytes=_MAX_BYTES)
        if isinstance(unpacked, Problem):
            return ""
        body = unpacked
    decoded = decode(body, max_bytes=_MAX_BYTES)
    document = decoded.document if isinstance(decoded, Decoded) else decoded.remains
    return "" if document is None else text_at(document, ("header", "customer", "_id")) or ""


def _first_death(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the broker says of the letter's last death: it lists the newest first."""
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    if isinstance(first, dict):
        return first
    reason = headers.get("x-last-death-reason") or headers.get("x-first-death-reason")
    if reason is None:
        return {}
    return {
        "reason": reason,
        "queue": headers.get("x-last-death-queue") or headers.get("x-first-death-queue"),
        "exchange": headers.get("x-last-death-exchange") or headers.get("x-first-death-exchange"),
    }


def _problems(value: object) -> tuple[LetterProblem, ...]:

    try:
        entries = from_json(value) if isinstance(value, str) else []
    except ValueError:
        return ()
    if not isinstance(entries, list):
        return ()
    return tuple(
        LetterProblem(_text(entry.get("code")), _text(entry.get("pointer")), _text(entry.get("expected")))
        for entry in entries
        if isinstance(entry, dict)
    )


def _pairs(headers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, _printable(value)) for key, value in list(headers.items())[:_MAX_HEADERS])


def _properties(delivery: Delivery) -> tuple[tuple[str, str], ...]:
    values = ((name, getattr(delivery.properties, name)) for name in _REPLAYED)
    return tuple((name, _printable(value)) for name, value in values if value is not None)


def _printable(value: object) -> str:
    return (value if isinstance(value, str) else str(value))[:_MAX_VALUE]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    return value if type(value) is int and -(2**63) <= value < 2**63 else None
