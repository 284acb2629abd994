"""The schemas of a dead letter: its AMQP headers, and the document that keeps it. No I/O."""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, WithJsonSchema

from worker import contract
from worker.codes import FailureClass, Stage
from worker.schemas.generate import Document, EpochMs, ReasonCode, definitions, document, one_of
from worker.schemas.samples import letter, letter_document

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

STATUSES: Final = ("open", "sending", "replayed", "settled", "died_again", "discarded", "parked")
_CLASS: Final = one_of([one.value for one in FailureClass], "What the failure means for the message.")
_STAGE: Final = one_of([one.value for one in Stage], "Where it was found.")
_TEXT: Final[JsonSchema] = {"type": "string"}
_TIME: Final[JsonSchema] = {"description": "Epoch milliseconds.", "type": "integer"}


def _text(description: str) -> JsonSchema:
    return {"description": description, **_TEXT}


HEADERS: Final[dict[str, JsonSchema]] = {
    contract.CODE: {"$ref": "#/$defs/ReasonCode"},
    contract.CLASS: _CLASS.json_schema or {},
    contract.STAGE: _STAGE.json_schema or {},
    contract.POINTER: _text("JSON pointer to the field; empty for the whole message."),
    contract.DETAIL: _text("One sentence, without anything of the message's content."),
    contract.PROBLEMS: {
        **_text("JSON: an array of up to twenty problems."),
        "contentMediaType": "application/json",
    },
    contract.FINGERPRINT: _text("The same for the same cause."),
    contract.ATTEMPT: {"description": "How often it was tried, from 1.", "type": "integer"},
    contract.FIRST_FAILED_AT: _TIME,
    contract.FAILED_AT: _TIME,
    contract.ORIGIN_EXCHANGE: _text("The exchange it was published to; empty for the default one."),
    contract.ORIGIN_ROUTING_KEY: _text("The routing key it was published with."),
    contract.ORIGIN_QUEUE: _text("The queue it was taken from first."),
    contract.SENDER_ID: _text("`header.sender.id`, as far as it could be read."),
    contract.SENDER_NAME: _text("`header.sender.senderName`, as far as it could be read."),
    contract.MESSAGE_ID: _text("The message's own `id`, as far as it could be read."),
    contract.CONVERSATION_ID: _text("`header.conversationId`, as far as it could be read."),
    contract.WORKER_VERSION: _text("Version of the worker that gave it up."),
    contract.USER_ID: _text("The broker user that published the message, if the broker checked it."),
    contract.IDEMPOTENCY_KEY: _text("The publisher's own key, if it gave one."),
    contract.TRACEPARENT: _text("The trace it belongs to (W3C Trace Context)."),
}
"""What a dead letter's headers are; the body is byte for byte what arrived."""


class RecordedProblem(Document):
    """One of the problems a letter died of."""

    code: str
    pointer: str
    expected: str


class Pair(Document):
    """A header or a property of the letter, as printable text."""

    key: str
    value: str


class LetterDocument(Document):
    """All dead letters of one content: bytes, reason and place. Texts are empty and numbers null where it has none."""

    id: str = Field(alias="_id", pattern="^[0-9a-f]{24}$")
    code: ReasonCode
    failureClass: Annotated[str, _CLASS]
    stage: Annotated[str, _STAGE]
    pointer: str
    detail: str
    problems: list[RecordedProblem]
    fingerprint: str
    attempt: int | None
    firstFailedAt: EpochMs | None
    failedAt: EpochMs | None
    originExchange: str
    originRoutingKey: str
    originQueue: str
    senderId: str
    senderName: str
    messageId: str
    conversationId: str
    workerVersion: str
    traceparent: str
    userId: str = Field("", description="The broker user that published it, if the broker has checked that.")
    customerId: str = ""
    idempotencyKey: str = ""
    replayOf: str = Field("", description="The letter it is a replay of.")
    replayJob: str = ""
    replays: int = Field(0, description="How often it was replayed, those it is a replay of included.")
    body: Annotated[
        dict[str, Any],
        WithJsonSchema(
            {
                "description": "The original bytes, BSON binary in Extended JSON; none when the letter is parked.",
                "type": "object",
                "required": ["$binary"],
                "properties": {
                    "$binary": {
                        "type": "object",
                        "required": ["base64"],
                        "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
                    }
                },
            }
        ),
    ]
    bodyBytes: int
    headers: list[Pair]
    properties: list[Pair]
    status: Annotated[str, one_of(STATUSES, "`open` until somebody decides; another such letter opens it again.")]
    statusAt: EpochMs | None = None
    jobId: str = Field("", description="The job that has claimed it last.")
    outcome: str = Field("", description="How its replay ended.")
    successor: str = Field("", description="The letter that its replay became when it died again.")
    reason: str = Field("", description="Why somebody discarded it.")
    revision: int = Field(0, description="How often its message was edited.")
    recordedAt: EpochMs
    count: int = Field(description="How many letters of this content there were.")
    firstSeen: EpochMs
    lastSeen: EpochMs


def headers_schema() -> JsonSchema:
    """Return the schema document of the headers of the letters that workers write."""
    description = (
        "AMQP headers of a dead letter written by a worker, in `cim.dead-letters`. Long texts are cut, and on a "
        "connection with small frames only the required ones are sure to be there. Letters of the broker itself have "
        "its own headers."
    )
    root: JsonSchema = {
        "type": "object",
        "required": [contract.CODE, contract.CLASS, contract.STAGE, contract.ATTEMPT, contract.FAILED_AT],
        "properties": HEADERS,
    }
    sample = {name: value for name, value in (letter().headers or {}).items() if name in HEADERS}
    return document("dead-letter-headers", "Headers of a dead letter", description, root, {}, [sample])


def letter_schema() -> JsonSchema:
    """Return the schema document of a letter as the collection `dead_letters` keeps it."""
    description = (
        "A document of the collection `dead_letters`, in relaxed MongoDB Extended JSON: one for all dead letters of "
        "one content, with their number."
    )
    parts = definitions(LetterDocument)
    whole = parts.pop("LetterDocument")
    return document("dead-letter", "Dead letter", description, whole, parts, [letter_document()])
