"""What has to hold for every input. Each check returns a label of what became of it, and raises AssertionError."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import bson
from pydantic_core import to_json

from tests.fuzz.amqp import Field, encode, plain
from tests.fuzz.shapes import CANARY
from tests.support.identity import event_id_of
from worker.cim import CimMessage, Rejected, parse
from worker.codes import Code, FailureClass
from worker.conversations.conversation import ChannelSession, Conversation, ConversationRecord, Room
from worker.conversations.lifecycle import Ignored, LifecycleChange, merge, parse_lifecycle
from worker.dead_letters.envelope import dead_letter, parked_copy, retry_copy
from worker.dead_letters.letter import LetterRecord
from worker.dead_letters.provenance import attempt_of
from worker.dead_letters.reading import read_letter
from worker.failure import Failure, classify
from worker.mongo.bulk import Encoded, encode_alone
from worker.pipeline.translate import Activity, place, translate
from worker.rabbit.consumer import Delivery
from worker.rabbit.frames import encode_publish
from worker.rabbit.properties import decode_properties, encode_properties, encode_table

if TYPE_CHECKING:
    from worker.ports import Outgoing, Properties

NOW = 1_760_000_222_333
RECEIVED_AT = 1_760_000_111_222
HEADER_BYTES = 16 * 1024
"""Most that all headers of a copy may take together."""
_SECONDS_BELOW = 10**11
_SESSION = ChannelSession.of({"id": "s-1", "conversationId": "c-1", "state": {"name": "STARTED"}})
_KNOWN = (
    None,
    Conversation("c-1", "ACTIVE", "cust-1", Room.of({"id": "r-1"}), (_SESSION,), 1),
    Conversation("c-2", "CLOSED", None, None, (), 1),
)


def delivery_of(properties: bytes, body: bytes) -> Delivery:
    """Return a delivery as the consumer makes it."""
    return Delivery(1, False, "cim.ingress", "key", "cim.ingress", properties, body, 0.0)  # noqa: FBT003 - its redelivered flag


# -- messages ---------------------------------------------------------------------------------------------------------


def message(body: bytes) -> str:
    """parse, translate, route: always one outcome, always the same, and valid messages travel unchanged."""
    result = parse(body, received_at=RECEIVED_AT)
    assert result == parse(body, received_at=RECEIVED_AT), "another outcome for the same bytes"
    if isinstance(result, Rejected):
        _check_rejection(result)
        return str(result.first.code)
    activities = [_activity(body, conversation) for conversation in _KNOWN]
    assert len({activity.event_id for activity in activities}) == 1, "the registry changed the event's id"
    for activity in activities:
        _check_event(body, result, activity)
    return f"valid, {place(result, None)[0]}"


def _activity(body: bytes, conversation: Conversation | None) -> Activity:
    # Parsed anew: what one translation might do to the message must not hide from the next.
    parsed = parse(body, received_at=RECEIVED_AT)
    assert isinstance(parsed, CimMessage)
    place(parsed, conversation)
    return translate(parsed, conversation, now=NOW)


def _check_rejection(result: Rejected) -> None:
    assert 1 <= len(result.problems) <= 20
    for problem in result.problems:
        assert problem.code.spec.failure_class is FailureClass.INVALID
        assert len(problem.pointer) <= 256
        assert problem.expected.strip()
        assert CANARY not in problem.expected
        (problem.pointer + problem.expected).encode()


def _check_event(body: bytes, accepted: CimMessage, activity: Activity) -> None:
    raw = activity.event_bytes()
    event = json.loads(raw)
    assert event["id"] == event_id_of(body)
    assert re.fullmatch("[0-9a-f]{24}", event["id"])
    assert (event["name"], event["type"], event["timestamp"]) == ("THIRD_PARTY_ACTIVITY", "ACTIVITY", NOW)
    sent = json.loads(body)
    _check_customer(sent["header"], event["data"]["header"], accepted, activity)
    _check_data(sent, event["data"], accepted)
    again = parse(to_json(activity.event["data"]), received_at=RECEIVED_AT)
    assert isinstance(again, CimMessage), f"the data of the event is no valid message: {again}"
    assert again.customer_id == activity.customer_id
    ids = ("id", "sender_id", "conversation_id", "channel_session_id", "room_id", "body_type")
    for name in ids:
        assert getattr(again, name) == getattr(accepted, name), name
    if abs(accepted.timestamp) >= _SECONDS_BELOW:  # smaller ones are read as seconds, as documented
        assert _text(again.wire) == _text(activity.event["data"]), "normalising twice is not the same as once"


def _check_customer(sent: Any, arrived: Any, accepted: CimMessage, activity: Activity) -> None:
    """Take out the customer that the registry knows, where it stands because the message names none."""
    if accepted.customer_id is None and activity.customer_id is not None:
        assert arrived["customer"] == {**(sent.get("customer") or {}), "_id": activity.customer_id}
        if "customer" in sent:
            arrived["customer"] = sent["customer"]
        else:
            del arrived["customer"]


def _check_data(sent: Any, data: Any, accepted: CimMessage) -> None:
    """Compare byte for byte, after taking out the documented normalisations and checking each by its own rule."""
    sent_id, data_id = sent.pop("id", None), data.pop("id")
    assert data_id == (sent_id if sent_id and sent_id.strip() else accepted.id)
    assert data["header"].pop("timestamp") == _expected_timestamp(sent["header"].pop("timestamp", None))
    sent_channel, channel = sent["header"].pop("channelData", None) or {}, data["header"].pop("channelData")
    _check_attributes(sent_channel.pop("additionalAttributes", None), channel.pop("additionalAttributes"))
    assert _text(channel) == _text(sent_channel)
    assert _text(data) == _text(sent), "the message changed on its way"


def _expected_timestamp(sent: Any) -> int:
    if sent is None or (isinstance(sent, str) and not sent.strip()):
        return RECEIVED_AT
    if isinstance(sent, str) and sent.isdecimal():
        sent = int(sent)
    if isinstance(sent, str):
        moment = datetime.fromisoformat(sent)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400_000) + since.seconds * 1000 + since.microseconds // 1000
    milliseconds: int = round(sent * 1000 if abs(sent) < _SECONDS_BELOW else sent)
    return milliseconds


def _check_attributes(sent: Any, arrived: Any) -> None:
    assert isinstance(arrived, list)
    assert len(arrived) == len(sent or [])
    for before, after in zip(sent or [], arrived, strict=True):
        old, new = before.pop("value", None), after.pop("value")
        assert isinstance(new, str)
        assert _text(after) == _text(before)
        if old is None:
            assert not new
        else:
            assert new == old if isinstance(old, str) else _text(json.loads(new)) == _text(old)


def _text(value: Any) -> str:
    """Return a form in which 1, 1.0 and true differ, and the order of keys counts."""
    return json.dumps(value)


# -- lifecycle --------------------------------------------------------------------------------------------------------


def lifecycle(body: bytes) -> str:
    """parse_lifecycle: always one outcome; a change merges once and its record survives the store."""
    result = parse_lifecycle(body, received_at=RECEIVED_AT)
    assert result == parse_lifecycle(body, received_at=RECEIVED_AT), "another outcome for the same bytes"
    if isinstance(result, Ignored):
        return "ignored"
    if isinstance(result, Rejected):
        _check_rejection(result)
        return str(result.first.code)
    _check_change(result)
    return f"change, {result.name.lower()}"


def _check_change(change: LifecycleChange) -> None:
    assert 0 < len(change.conversation_id.encode()) <= 242
    record = merge(None, change)
    if record is None:
        return
    assert merge(record, change) is None, "the same change twice is not the same as once"
    document = record.to_document()
    assert ConversationRecord.from_document(document) == record
    record.to_conversation()
    encoded = encode_alone(document)
    if isinstance(encoded, Encoded):
        back: dict[str, Any] = bson.decode(encoded.document.raw)
        assert ConversationRecord.from_document(back) == record, "the store gives back another record"


# -- properties -------------------------------------------------------------------------------------------------------


def raw_properties(raw: bytes) -> str:
    """decode_properties: never raises, always the same, only the types it promises."""
    result = decode_properties(raw)
    assert repr(result) == repr(decode_properties(raw))
    for name in ("content_type", "correlation_id", "expiration", "message_id", "type", "user_id", "app_id", "reply_to"):
        value = getattr(result, name)
        assert value is None or isinstance(value, str), name
    assert result.timestamp is None or 0 <= result.timestamp < 2**64
    assert all(isinstance(key, str) for key in result.headers)
    return "damaged" if result.damaged else "read"


def true_properties(fields: tuple[Field, ...]) -> str:
    """Well-formed properties are read back as they were written, whatever is in them, up to a sane depth."""
    result = decode_properties(encode(fields))
    sent = dict(fields)
    headers = sent.pop("headers", ())
    if max((_depth(value) for _, value in headers), default=0) > 100:
        assert result.damaged or repr(result.headers) == repr({key: plain(value) for key, value in headers})
        return "very deep"
    assert not result.damaged
    # As text: a Decimal 0E-7 equals 0, and keys that are named twice keep the last value.
    assert repr(result.headers) == repr({key: plain(value) for key, value in headers})
    whole = encode(fields)
    for cut in {len(whole) // 2, len(whole) - 1}:
        assert decode_properties(whole[:cut]).damaged, "a cut went unnoticed"
    for name, value in sent.items():
        assert getattr(result, name) == (value.decode("utf-8", "replace") if isinstance(value, bytes) else value), name
    return "read"


def _depth(value: Any) -> int:
    kind, content = value
    if kind == "A":
        return 1 + max(map(_depth, content), default=0)
    return 1 + max((_depth(item) for _, item in content), default=0) if kind == "F" else 0


# -- letters ----------------------------------------------------------------------------------------------------------


def letter(delivery: tuple[bytes, bytes]) -> str:
    """read_letter: never raises, always the same; the record can be stored and comes back the same."""
    record = read_letter(delivery_of(*delivery), recorded_at=NOW)
    assert record == read_letter(delivery_of(*delivery), recorded_at=NOW)
    assert record.body == delivery[1]
    assert re.fullmatch("[0-9a-f]{24}", record.id)
    encoded = encode_alone(record.to_document())
    assert isinstance(encoded, Encoded), f"the store cannot take this letter: {encoded.detail}"
    assert LetterRecord.from_document(bson.decode(encoded.document.raw)) == record
    known = set(Code)
    return record.code if record.code in known else "ours, with a code nobody knows"


# -- copies -----------------------------------------------------------------------------------------------------------


def copies(delivery: tuple[bytes, bytes]) -> str:
    """dead_letter, retry_copy, parked_copy: same body, bounded headers without payload, fit for the wire."""
    arrived = delivery_of(*delivery)
    parsed = parse(arrived.body, received_at=RECEIVED_AT)
    identity = parsed.identity
    failure = Failure.of_problems(parsed.problems) if isinstance(parsed, Rejected) else classify(ValueError(CANARY))
    attempt = attempt_of(arrived)
    made = (
        dead_letter(arrived, failure, identity, now=NOW, copy_id="copy"),
        retry_copy(arrived, failure, "10s", attempt=attempt + 1, now=NOW, copy_id="copy"),
        parked_copy(arrived, copy_id="copy"),
    )
    # Identity, the publisher's own headers and the keys of its JSON are no payload values; the rest must not leak.
    may_leak = CANARY.encode() in arrived.raw_properties or CANARY in str(identity) or _names_canary(arrived.body)
    for copy in made:
        _check_copy(copy, arrived, may_leak=may_leak)
    return str(failure.code)


def _names_canary(body: bytes) -> bool:
    return re.search(rb'"[^"]*' + CANARY.encode() + rb'[^"]*"\s*:', body) is not None


def _check_copy(copy: Outgoing, arrived: Delivery, *, may_leak: bool) -> None:
    assert copy.body is arrived.body
    headers = dict(copy.headers or {})
    for name, value in headers.items():
        assert isinstance(value, str) or (type(value) is int and -(2**63) <= value < 2**63), f"{name}: {value!r}"
    assert len(encode_table(headers)) < HEADER_BYTES
    on_the_wire = read_back(copy)
    assert on_the_wire.headers == headers
    assert not on_the_wire.damaged
    assert on_the_wire.message_id == copy.message_id, "a return of this copy would not be recognised"
    assert (on_the_wire.user_id, on_the_wire.expiration, on_the_wire.reply_to) == (None, None, None)
    assert not {name.upper() for name in headers} & {"CC", "BCC"}
    assert may_leak or CANARY not in json.dumps(headers)


def read_back(outgoing: Outgoing) -> Properties:
    """Return the properties of a publish as the broker would hand them out; check that its frames can be written."""
    raw = encode_properties(
        message_id=outgoing.message_id,
        correlation_id=outgoing.correlation_id,
        headers=outgoing.headers,
        content_type=outgoing.content_type,
        content_encoding=outgoing.content_encoding,
        timestamp=outgoing.timestamp,
        type_=outgoing.type,
        app_id=outgoing.app_id,
    )
    assert len(raw) < 2 * HEADER_BYTES
    encode_publish(1, outgoing.exchange, outgoing.routing_key, raw, outgoing.body, frame_max=131_072)
    return decode_properties(raw)
