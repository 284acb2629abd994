"""A dead letter as the `dead_letters` collection keeps it: reason, where, when, attempts, original bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_ID_DIGITS: Final = 24

Document = dict[str, Any]


class RecordResult(StrEnum):
    """What became of one letter handed to the recorder."""

    RECORDED = "recorded"
    """A new document, acknowledged by a majority."""
    ALREADY_RECORDED = "already_recorded"
    """This very letter was recorded before; nothing changed."""
    TOO_LARGE = "too_large"
    """No document can hold it: park it."""
    REFUSED = "refused"
    """The store will not take it for another reason: park it."""


@dataclass(frozen=True, slots=True)
class LetterProblem:
    """One of the problems a letter died of. No payload."""

    code: str
    pointer: str
    expected: str


@dataclass(frozen=True, slots=True)
class LetterRecord:
    """One dead letter. Strings are empty and numbers None where it does not say; times are epoch milliseconds."""

    id: str
    """24 hex digits from `letter_id`: the same letter delivered again has the same id."""
    code: str
    failure_class: str
    stage: str
    fingerprint: str
    failed_at: int | None
    recorded_at: int
    body: bytes
    """The original bytes, untouched."""
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
    status: str = "dead"

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
            "body": self.body,
            "bodyBytes": len(self.body),
            "headers": [{"key": key, "value": value} for key, value in self.headers],
            "properties": [{"key": key, "value": value} for key, value in self.properties],
            "status": self.status,
            "recordedAt": self.recorded_at,
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
        )


def letter_id(body: bytes, failed_at: int | None, identity: str) -> str:
    """Return the id of a letter: 24 hex digits, equal when the broker hands the same letter out again.

    Args:
        body: the letter's bytes.
        failed_at: its `cim-failed-at`, so that a message that dies again after a replay is another letter.
        identity: what else tells letters apart, such as AMQP message id and origin queue.
    """
    digest = hashlib.sha256(f"{failed_at}\0{identity}\0".encode("utf-8", "surrogatepass"))
    digest.update(body)
    return digest.hexdigest()[:_ID_DIGITS]
