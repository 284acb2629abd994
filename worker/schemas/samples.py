"""One activity, and everything that becomes of it, made by the worker's own code where that can be. No I/O."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from worker.cim import CimMessage, Rejected, parse
from worker.codes import Code
from worker.contract import INGRESS
from worker.conversations.conversation import ChannelSession, Conversation, Room
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.reading import read_letter
from worker.failure import Failure
from worker.outcome import Outcome
from worker.pipeline.ports import StoredBecause
from worker.pipeline.translate import translate
from worker.ports import Outgoing, Properties

Sample = dict[str, Any]

RECEIVED_AT: Final = 1_760_000_000_500
MESSAGE: Final[Sample] = {
    "id": "loan-4711-step-3",
    "header": {
        "sender": {"id": "loan-app", "type": "APP", "senderName": "LoanApp"},
        "timestamp": 1_760_000_000_010,
        "conversationId": "65f0c0ffee0000000000abcd",
    },
    "body": {"type": "LOAN_STEP", "markdownText": "step 3 of 5", "stepCode": "KYC"},
}
LIFECYCLE_EVENT: Final[Sample] = {
    "id": "66aa00000000000000000105",
    "name": "TOPIC_STATE_CHANGED",
    "type": "NOTIFICATION",
    "timestamp": 1_760_000_000_000,
    "conversationId": "65f0c0ffee0000000000abcd",
    "data": {"id": "65f0c0ffee0000000000abcd", "state": "ACTIVE", "customer": {"_id": "65f0c0ffee00000000001234"}},
}
_SESSION: Final[Sample] = {"id": "66aa00000000000000000010", "state": {"name": "STARTED", "reasonCode": "CUSTOMER"}}
_ROOM: Final[Sample] = {"id": "66aa00000000000000000030", "mode": "CONTACT_CENTER"}


def parsed() -> CimMessage:
    """Return the sample message as the worker reads it."""
    message = parse(orjson.dumps(MESSAGE), received_at=RECEIVED_AT)
    if not isinstance(message, CimMessage):
        raise TypeError(message)
    return message


def event() -> Sample:
    """Return the event of the sample message in a live conversation."""
    conversation = Conversation(
        parsed().conversation_id or "",
        "ACTIVE",
        "65f0c0ffee00000000001234",
        Room.of(_ROOM),
        (ChannelSession.of(_SESSION),),
        RECEIVED_AT,
    )
    made: Sample = orjson.loads(translate(parsed(), conversation, now=RECEIVED_AT).event_bytes())
    return made


def receipts() -> list[Sample]:
    """Return the receipts of an activity that was published, of one that was stored, and of one that was rejected."""
    identity = parsed().identity
    told: Sample = {
        "outcome": Outcome.PUBLISHED.value,
        "eventId": identity.event_id,
        "messageId": identity.message_id,
        "conversationId": identity.conversation_id,
        "reason": None,
        "code": None,
        "problems": [],
        "at": RECEIVED_AT + 4,
    }
    rejected: Sample = {"eventId": None, "conversationId": None, "code": Code.MISSING_ANCHOR.value}
    return [
        told,
        {**told, "outcome": Outcome.STORED.value, "reason": StoredBecause.CLOSED.value},
        {**told, **rejected, "outcome": Outcome.DEAD.value, "problems": _problems()},
    ]


def journal() -> Sample:
    """Return a message of the journal."""
    identity = parsed().identity
    entry: Sample = {
        "eventId": identity.event_id,
        "messageId": identity.message_id,
        "senderId": identity.sender_id,
        "conversationId": identity.conversation_id,
        "outcome": Outcome.PUBLISHED.value,
        "reason": None,
        "code": None,
        "letterId": None,
        "replayOf": None,
        "receivedAt": RECEIVED_AT,
        "at": RECEIVED_AT + 4,
    }
    gap = {"from": RECEIVED_AT - 2000, "to": RECEIVED_AT - 900, "count": 12}
    return {"worker": "worker-1-4711", "at": RECEIVED_AT + 5, "outcomes": [entry], "gap": gap}


def _problems() -> list[Sample]:
    code = Code.MISSING_ANCHOR
    return [{"code": code.value, "pointer": "/header", "expected": code.spec.meaning}]


def letter() -> Outgoing:
    """Return the dead letter of the sample message without its anchor."""
    header = {key: value for key, value in MESSAGE["header"].items() if key != "conversationId"}
    body = orjson.dumps({**MESSAGE, "header": header})
    rejected = parse(body, received_at=RECEIVED_AT)
    if not isinstance(rejected, Rejected):
        raise TypeError(rejected)
    failure = Failure.of_problems(rejected.problems)
    return dead_letter(_Sent(body), failure, rejected.identity, now=RECEIVED_AT, copy_id="c0ffee")


def letter_document() -> Sample:
    """Return the document of that letter, in relaxed MongoDB Extended JSON."""
    made = letter()
    sent = _Sent(made.body, Properties(headers=dict(made.headers or {}), message_id=made.message_id))
    document = read_letter(sent, recorded_at=RECEIVED_AT + 60_000).to_document()
    body = base64.b64encode(document["body"]).decode()
    return {**document, "body": {"$binary": {"base64": body, "subType": "00"}}, "unsettled": 0}


@dataclass(eq=False)
class _Sent:
    """The sample message as it comes from the broker."""

    body: bytes
    properties: Properties = field(default_factory=lambda: Properties(message_id=MESSAGE["id"]))
    exchange: str = INGRESS
    routing_key: str = "65f0c0ffee0000000000abcd"
    queue: str = INGRESS
    redelivered: bool = False
    tag: int = 1
    received_at: float = 0.0
    prior_deliveries: int = 0
