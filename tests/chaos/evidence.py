"""Where every message ended: read from the store, the parked queue and the trap, past everything the worker says."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pymongo

from tests.chaos.messages import TRAP, Kind, as_sent, digest_of, event_id_of

if TYPE_CHECKING:
    from tests.chaos.ledger import Ledger

_TIMEOUT_MS = 5000
_NOT_THERE = ("unknown_conversation", "nobody_listens")
_REASONS = {
    # While the registry cannot be asked, the broker's return decides.
    Kind.CLOSED: ("closed", *_NOT_THERE),
    Kind.SESSION_CLOSED: ("closed",),
    Kind.UNKNOWN: ("unknown_conversation",),
    Kind.STAND_ALONE: ("stand_alone",),
    Kind.NARROW: ("refused_by_subscriber",),
    Kind.REFUSED: ("refused_by_subscriber",),
    Kind.MOVING: ("closed", *_NOT_THERE),
    Kind.BULKY: ("event_too_large",),
}
"""Why a message of each kind may be stored."""


@dataclass
class Letter:
    """One document of `dead_letters`."""

    code: str
    attempt: int | None
    status: str
    class_: str


@dataclass
class Evidence:
    """What was found. Numbers are those of the ledger."""

    stored: Counter[int] = field(default_factory=Counter)
    """Documents by the number whose payload they hold."""
    letters: dict[int, list[Letter]] = field(default_factory=lambda: defaultdict(list))
    strangers: list[str] = field(default_factory=list)
    """Letters that belong to no message."""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """Invariant and example, for single documents."""
    parked: Counter[int] = field(default_factory=Counter)
    trapped: int = 0


def read_store(uri: str, database: str, ledger: Ledger) -> Evidence:
    """Read all documents and letters. Raises PyMongoError while the store is away."""
    evidence = Evidence()
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, timeoutMS=_TIMEOUT_MS * 12)
    with client:
        for document in client[database]["ConversationActivities"].find({}, batch_size=2000):
            _read_document(document, ledger, evidence)
        fields = {"code": 1, "failureClass": 1, "attempt": 1, "status": 1, "body": 1, "properties": 1, "count": 1}
        for document in client[database]["dead_letters"].find({}, fields, batch_size=200):
            _read_letter(document, ledger, evidence)
    return evidence


def has_letter(uri: str, database: str, code: str, body: bytes) -> bool:
    """Tell whether a letter of that code and body was recorded. Raises PyMongoError while the store is away."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, timeoutMS=_TIMEOUT_MS)
    with client:
        found = client[database]["dead_letters"].find({"code": code}, {"body": 1})
        return any(bytes(document["body"]) == body for document in found)


def count_letters(uri: str, database: str, code: str) -> int:
    """Return how many letters of a code were recorded. Raises PyMongoError while the store is away."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, timeoutMS=_TIMEOUT_MS)
    with client:
        return client[database]["dead_letters"].count_documents({"code": code})


def read_parked(channel: Any, ledger: Ledger) -> Counter[int]:
    """Take every message out of the parked queue and count them."""
    found: Counter[int] = Counter()
    while True:
        method, _, body = channel.basic_get("cim.dead-letters.parked")
        if method is None:
            return found
        found[ledger.by_digest.get(digest_of(body), -1)] += 1
        channel.basic_ack(method.delivery_tag)


def read_trap(channel: Any) -> int:
    """Return how many messages a CC header led to the trap."""
    return int(channel.queue_declare(TRAP, passive=True).method.message_count)


def _read_document(document: dict[str, Any], ledger: Ledger, evidence: Evidence) -> None:
    data = document["activity"]["data"]
    body = as_sent(data, document["conversationId"])
    number = ledger.number_of_message(data, body)
    if number is None:
        evidence.wrong.append(("a document nobody published", str(document["_id"])))
        return
    wanted = event_id_of(data, body)
    if str(document["_id"]) != wanted or document["activity"]["_id"] != wanted:
        evidence.wrong.append(("another event id", f"{number}: document {document['_id']}, not {wanted}"))
    if digest_of(body) != ledger.digest(number) or document["messageId"] != data["id"]:
        evidence.wrong.append(("another payload", f"{number} ({ledger.kind(number).name}) in the store"))
    if ledger.kind(number) is not Kind.STAND_ALONE and document["conversationId"] != ledger.places[number]:
        evidence.wrong.append(("another conversation", f"{number}: {document['conversationId']} in the store"))
    reasons = _REASONS.get(ledger.kind(number))
    if reasons is not None and document["storedBecause"] not in reasons and not ledger.shaken[number]:
        example = f"{number} ({ledger.kind(number).name}): {document['storedBecause']}, not {' or '.join(reasons)}"
        evidence.wrong.append(("another reason for storing", example))
    evidence.stored[number] += 1


def _read_letter(document: dict[str, Any], ledger: Ledger, evidence: Evidence) -> None:
    body = bytes(document["body"])
    number = ledger.by_digest.get(digest_of(body))
    if number is None and document["status"] == "parked":
        # The body of a parked letter is in its queue; here its message id must do.
        ids = (pair["value"] for pair in document["properties"] if pair["key"] == "message_id")
        number = ledger.number_of(next(ids, None))
    if number is None:
        number = _number_in(body, ledger)
    if number is None:
        evidence.strangers.append(f"{document['code']}, {len(body)} bytes")
        return
    letter = Letter(document["code"], document["attempt"], document["status"], document["failureClass"])
    evidence.letters[number] += [letter] * document.get("count", 1)


def _number_in(body: bytes, ledger: Ledger) -> int | None:
    """Find a valid message's number in its bytes; it should not be among the letters at all."""
    mark = f'"id":"{ledger.run}-'.encode()
    _, found, rest = body.rpartition(mark)
    digits = rest.partition(b'"')[0]
    number = ledger.number_of(f"{ledger.run}-{digits.decode(errors='replace')}") if found else None
    return number if number is not None and ledger.digest(number) == digest_of(body) else None
