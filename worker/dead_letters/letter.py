"""A dead letter as the `dead_letters` collection keeps it: reason, where, when, attempts, original bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ID_DIGITS: Final = 24


class Status(StrEnum):
    """The life of a letter. Values are part of the public contract."""

    OPEN = "open"
    """It waits for somebody's decision."""
    SENDING = "sending"
    """A job has claimed it and is publishing it."""
    REPLAYED = "replayed"
    """The broker has confirmed its replay; the outcome is not known yet."""
    SETTLED = "settled"
    """Its replay was published, stored or a duplicate."""
    DIED_AGAIN = "died_again"
    """Its replay is dead, too: that is another letter, its successor."""
    DISCARDED = "discarded"
    """Somebody decided that it is not needed."""
    PARKED = "parked"
    """No document can hold it: its bytes are in the queue of parked letters."""


OPEN: Final = Status.OPEN
PARKED: Final = Status.PARKED
DECIDED: Final = frozenset({Status.REPLAYED, Status.SETTLED, Status.DIED_AGAIN, Status.DISCARDED})
"""Statuses of letters that nobody is working on; another letter of the same content opens them again."""

UNDER_WAY: Final = (Status.SENDING, Status.REPLAYED)
"""Statuses of letters whose outcome is awaited, in the order in which they are passed through: a letter that is not
found in the one is in the next."""
_AFTER: Final = {
    Outcome.PUBLISHED.value: Status.SETTLED,
    Outcome.STORED.value: Status.SETTLED,
    Outcome.DUPLICATE.value: Status.SETTLED,
    Outcome.DEAD.value: Status.DIED_AGAIN,
}
Document = dict[str, Any]


def status_after(outcome: str) -> Status | None:
    """Return what a letter is once its replay ended in *outcome*; None for one that is not the last word."""
    return _AFTER.get(outcome)


def reopened(now: int) -> Document:
    """Return the fields of a letter that waits for a decision again, since *now* (epoch ms). It expires no more."""
    return {"status": OPEN.value, "statusAt": now, "jobId": "", "outcome": "", "successor": "", "reason": ""}


def claim_state(status: str, job_id: str = "") -> Document:
    """Return the fields of a letter that say who may change it: an open one is of no job."""
    return {"status": str(status), "jobId": job_id}


class RecordResult(StrEnum):
    """What became of one letter handed to the recorder."""

    RECORDED = "recorded"
    """A new document, acknowledged by a majority."""
    ALREADY_RECORDED = "already_recorded"
    """There is a document of its content: another letter was counted, the same one delivered again was not."""
    TOO_LARGE = "too_large"
    """No document can hold it: park it."""
    REFUSED = "refused"
    """The store will not take it for another reason: park it."""
    UNPROVEN = "unproven"
    """It was not recorded, and nobody can tell whose fault that is: try it again later."""


@dataclass(frozen=True, slots=True)
class LetterProblem:
    """One of the problems a letter died of. No payload."""

    code: str
    pointer: str
    expected: str


@dataclass(frozen=True, slots=True)
class LetterRecord:
    """All dead letters of one content. Strings are empty and numbers None where a letter does not say.

    Times are epoch milliseconds. Where letters of one content differ, it is the first that counts.
    """

    id: str
    """24 hex digits from `letter_id`: letters of one content have one id."""
    code: str
    failure_class: str
    stage: str
    fingerprint: str
    failed_at: int | None
    recorded_at: int
    first_seen: int
    """When the first letter of this content died, as far as known, else when it was recorded."""
    last_seen: int
    body: bytes
    """The original bytes, untouched."""
    count: int = 1
    """How many letters of this content there were."""
    pointer: str = ""
    detail: str = ""
    problems: tuple[LetterProblem, ...] = ()
    attempt: int | None = None
    first_failed_at: int | None = None
    origin_exchange: str = ""
    origin_routing_key: str = ""
    origin_queue: str = ""
    sender_id: str = ""
    sender_name: str = ""
    message_id: str = ""
    conversation_id: str = ""
    worker_version: str = ""
    traceparent: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Every header of the letter as key and printable value, in the order of the wire."""
    properties: tuple[tuple[str, str], ...] = ()
    """The AMQP properties a replay needs, as key and printable value."""
    user_id: str = ""
    """The broker user that published it, if the broker has checked that."""
    customer_id: str = ""
    """The customer its message names."""
    idempotency_key: str = ""
    """The publisher's, if it gave one."""
    replay_of: str = ""
    """The letter it is a replay of."""
    replay_job: str = ""
    """The job that replayed it."""
    replays: int = 0
    """How often it was replayed, those it is a replay of included."""
    status: str = OPEN
    status_at: int | None = None
    """When it got its status, if that is not its first one."""
    job_id: str = ""
    """The job that has claimed it last."""
    outcome: str = ""
    """How its replay ended."""
    successor: str = ""
    """The letter that its replay became when it died again."""
    reason: str = ""
    """Why somebody discarded it."""
    revision: int = 0
    """How often its message was edited."""
    original_body: bytes | None = None
    """The bytes as they arrived, when they were edited since."""
    redelivered: bool = False
    """Whether the broker delivered this letter before, so that it may be counted already. Not kept."""

    @property
    def claim_state(self) -> Document:
        """Who may change it, as it was read: compare it and set, and nobody else has changed that meanwhile."""
        return claim_state(self.status, self.job_id)

    def to_document(self) -> Document:
        """Return the document of the `dead_letters` collection: flat, strings and integers, except for the body."""
        return {
            "_id": self.id,
            "code": self.code,
            "failureClass": self.failure_class,
            "stage": self.stage,
            "pointer": self.pointer,
            "detail": self.detail,
            "problems": [{"code": p.code, "pointer": p.pointer, "expected": p.expected} for p in self.problems],
            "fingerprint": self.fingerprint,
            "attempt": self.attempt,
            "firstFailedAt": self.first_failed_at,
            "failedAt": self.failed_at,
            "originExchange": self.origin_exchange,
            "originRoutingKey": self.origin_routing_key,
            "originQueue": self.origin_queue,
            "senderId": self.sender_id,
            "senderName": self.sender_name,
            "messageId": self.message_id,
            "conversationId": self.conversation_id,
            "workerVersion": self.worker_version,
            "traceparent": self.traceparent,
            "userId": self.user_id,
            "customerId": self.customer_id,
            "idempotencyKey": self.idempotency_key,
            "replayOf": self.replay_of,
            "replayJob": self.replay_job,
            "replays": self.replays,
            "body": self.body,
            "bodyBytes": len(self.body),
            "headers": [{"key": key, "value": value} for key, value in self.headers],
            "properties": [{"key": key, "value": value} for key, value in self.properties],
            "status": str(self.status),
            "statusAt": self.status_at,
            "jobId": self.job_id,
            "outcome": self.outcome,
            "successor": self.successor,
            "reason": self.reason,
            "revision": self.revision,
            "recordedAt": self.recorded_at,
            "count": self.count,
            "firstSeen": self.first_seen,
            "lastSeen": self.last_seen,
            **({} if self.original_body is None else {"originalBody": self.original_body}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the letter a document of the `dead_letters` collection holds. Raises KeyError if it is not one."""
        return cls(
            id=document["_id"],
            code=document["code"],
            failure_class=document["failureClass"],
            stage=document["stage"],
            pointer=document["pointer"],
            detail=document["detail"],
            problems=tuple(LetterProblem(p["code"], p["pointer"], p["expected"]) for p in document["problems"]),
            fingerprint=document["fingerprint"],
            attempt=document["attempt"],
            first_failed_at=document["firstFailedAt"],
            failed_at=document["failedAt"],
            origin_exchange=document["originExchange"],
            origin_routing_key=document["originRoutingKey"],
            origin_queue=document["originQueue"],
            sender_id=document["senderId"],
            sender_name=document["senderName"],
            message_id=document["messageId"],
            conversation_id=document["conversationId"],
            worker_version=document["workerVersion"],
            traceparent=document["traceparent"],
            body=bytes(document["body"]),
            headers=tuple((pair["key"], pair["value"]) for pair in document["headers"]),
            properties=tuple((pair["key"], pair["value"]) for pair in document["properties"]),
            status=document["status"],
            recorded_at=document["recordedAt"],
            count=document["count"],
            first_seen=document["firstSeen"],
            last_seen=document["lastSeen"],
            user_id=document.get("userId", ""),
            customer_id=document.get("customerId", ""),
            idempotency_key=document.get("idempotencyKey", ""),
            replay_of=document.get("replayOf", ""),
            replay_job=document.get("replayJob", ""),
            replays=document.get("replays", 0),
            status_at=document.get("statusAt"),
            job_id=document.get("jobId", ""),
            outcome=document.get("outcome", ""),
            successor=document.get("successor", ""),
            reason=document.get("reason", ""),
            revision=document.get("revision", 0),
            original_body=None if (original := document.get("originalBody")) is None else bytes(original),
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return the letter in a document of the collection, where others write, too. Raises nothing.

        What is missing, or of another type than ours, is empty: it is still listed, and its neighbours are unaffected.
        """
        ours = {name: value for name, value in document.items() if name in _EMPTY and _is_of(value, _EMPTY[name])}
        lists = {name: [one for one in ours.get(name, ()) if _has_texts(one, names)] for name, names in _LISTS.items()}
        original = document.get("originalBody")
        own = {"_id": str(document.get("_id")), "originalBody": original if isinstance(original, bytes) else None}
        return cls.from_document({**_EMPTY, **ours, **lists, **own})


def _is_of(value: object, empty: object) -> bool:
    if empty is None:
        return value is None or (isinstance(value, int) and not isinstance(value, bool))
    return isinstance(value, type(empty)) and not isinstance(value, bool)


def _has_texts(value: object, names: Sequence[str]) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)


_LISTS: Final = {
    "problems": ("code", "pointer", "expected"),
    "headers": ("key", "value"),
    "properties": ("key", "value"),
}
_EMPTY: Final[Document] = LetterRecord(
    id="",
    code="",
    failure_class="",
    stage="",
    fingerprint="",
    failed_at=None,
    recorded_at=0,
    first_seen=0,
    last_seen=0,
    body=b"",
    count=1,
).to_document()
_EMPTY["status"] = ""


def letter_id(body: bytes, *identity: str) -> str:
    """Return the id of all letters of one content: 24 hex digits.

    Args:
        body: the letter's bytes.
        identity: what else tells contents apart: why and where it died, and what it is a replay of. Not when, and not
            the AMQP message id: whoever sends the same bytes again and again has one problem, not many.
    """
    text = "\0".join(identity)
    digest = hashlib.sha256(f"{text}\0".encode("utf-8", "surrogatepass"))
    digest.update(body)
    return digest.hexdigest()[:_ID_DIGITS]
