"""Realistic third-party activities of every kind, the same for the same seed, each with what has to become of it.

For the demo, benchmarks and chaos: `generate` yields messages as publishers would send them: recordings, surveys, IVR
summaries, scheduled activities, wrap-ups, forms and custom types; stand-alone, for conversations that are live, closed
or unknown; now and then invalid, repeated, or with other content under the id of an earlier one.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Json = dict[str, Any]

_FIRST_TIMESTAMP: Final = 1_760_000_000_000
_BETWEEN_MESSAGES_MS: Final = 250
_REMEMBERED: Final = 500
"""How many messages back a repetition or a correction can reach."""


@dataclass(frozen=True, slots=True)
class Place:
    """A conversation with one channel session and its customer."""

    conversation_id: str
    session_id: str
    customer_id: str


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each sort of message comes, as weights."""

    live: int = 55
    closed: int = 12
    unknown: int = 10
    stand_alone: int = 12
    invalid: int = 5
    duplicate: int = 4
    repeated_live: int = 1
    corrected: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One message to publish, and what has to become of it."""

    body: bytes
    kind: str
    """What it is, for people."""
    outcome: str
    """published, stored, duplicate or dead."""
    sender_id: str
    message_id: str
    routing_key: str
    code: str | None = None
    """The reason code of a dead one."""
    conversation_id: str | None = None
    """The conversation it belongs to, if it is a live one."""


def generate(
    seed: int, count: int, *, live: Sequence[Place], closed: Sequence[Place], mix: Mix | None = None
) -> Iterator[Sample]:
    """Yield *count* messages. The same arguments always give the same messages.

    Args:
        seed: any number.
        count: how many, invalid and repeated ones included.
        live: conversations that are open while the messages are processed; at least one unless their weight is 0.
        closed: conversations the registry knows as closed; likewise.
        mix: how often each sort comes.
    """
    return _Generator(random.Random(seed), live, closed, mix or Mix()).run(count)  # noqa: S311 - test data, no secrets


class _Generator:
    def __init__(self, rng: random.Random, live: Sequence[Place], closed: Sequence[Place], mix: Mix) -> None:
        self._rng = rng
        self._live = live
        self._closed = closed
        self._number = 0
        # Each message is repeated or corrected at most once.
        self._stored: deque[Sample] = deque(maxlen=_REMEMBERED)
        self._published: deque[Sample] = deque(maxlen=_REMEMBERED)
        self._sorts: dict[Callable[[], Sample | None], int] = {
            self._for_live: mix.live,
            self._for_closed: mix.closed,
            self._for_unknown: mix.unknown,
            self._stand_alone: mix.stand_alone,
            self._invalid: mix.invalid,
            self._duplicate: mix.duplicate,
            self._repeated_live: mix.repeated_live,
            self._corrected: mix.corrected,
        }

    def run(self, count: int) -> Iterator[Sample]:
        sorts, weights = list(self._sorts), list(self._sorts.values())
        while self._number < count:
            sample = self._rng.choices(sorts, weights)[0]()
            if sample is not None:
                self._number += 1
                yield sample

    def _for_live(self) -> Sample:
        place = self._rng.choice(self._live)
        sample = self._sample(place, "published")
        sample = replace(sample, conversation_id=place.conversation_id)
        self._published.append(sample)
        return sample

    def _for_closed(self) -> Sample:
        return self._remembered(self._sample(self._rng.choice(self._closed), "stored"))

    def _for_unknown(self) -> Sample:
        place = Place(f"unknown-{self._hex(12)}", f"unknown-session-{self._hex(12)}", self._hex(24))
        return self._remembered(self._sample(place, "stored"))

    def _stand_alone(self) -> Sample:
        kind, make = self._rng.choice(_STAND_ALONE)
        header, body = make(self._rng, self._number)
        customer_id = self._hex(24)
        header["customer"] = {"_id": customer_id}
        return self._remembered(self._finished(kind, header, body, "stored", customer_id))

    def _invalid(self) -> Sample:
        sample = self._sample(self._rng.choice([*self._live, *self._closed]), "dead")
        kind, code, spoil = self._rng.choice(_SPOILED)
        return replace(sample, body=spoil(json.loads(sample.body)), kind=kind, code=code)

    def _duplicate(self) -> Sample | None:
        original = self._forgotten(self._stored)
        return original and replace(original, outcome="duplicate", kind="repeated")

    def _repeated_live(self) -> Sample | None:
        original = self._forgotten(self._published)
        return original and replace(original, kind="repeated")

    def _corrected(self) -> Sample | None:
        original = self._forgotten(self._stored)
        if original is None:
            return None
        message = json.loads(original.body)
        message["body"]["markdownText"] = "other content under the same id: another activity"
        return replace(original, body=_bytes(message), kind="corrected")

    def _sample(self, place: Place, outcome: str) -> Sample:
        kind, make, is_of_channel = self._rng.choice(_OF_CONVERSATION)
        header, body = make(self._rng, self._number)
        if is_of_channel:
            header["channelSessionId"] = place.session_id
            header["conversationId"] = self._rng.choice([None, "", place.conversation_id])
        else:
            header["conversationId"] = place.conversation_id
            header["customer"] = self._rng.choice([None, {"_id": place.customer_id}])
        return self._finished(kind, header, body, outcome, place.conversation_id)

    def _finished(self, kind: str, header: Json, body: Json, outcome: str, key: str) -> Sample:
        message_id = f"{self._hex(8)}-{self._hex(4)}-4{self._hex(3)}-8{self._hex(3)}-{self._hex(12)}"
        header.setdefault("timestamp", _FIRST_TIMESTAMP + self._number * _BETWEEN_MESSAGES_MS)
        message = {"id": message_id, "header": header, "body": body}
        return Sample(_bytes(message), kind, outcome, header["sender"]["id"], message_id, key)

    def _remembered(self, sample: Sample) -> Sample:
        self._stored.append(sample)
        return sample

    def _forgotten(self, memory: deque[Sample]) -> Sample | None:
        if not memory:
            return None
        index = self._rng.randrange(len(memory))
        sample = memory[index]
        del memory[index]
        return sample

    def _hex(self, digits: int) -> str:
        return f"{self._rng.getrandbits(digits * 4):0{digits}x}"


def _bytes(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def _header(name: str, kind: str, sender_id: str) -> Json:
    return {
        "sender": {"id": sender_id, "type": kind, "senderName": name, "additionalDetail": None},
        "channelData": {
            "channelCustomerIdentifier": "",
            "serviceIdentifier": "",
            "requestPriority": 0,
            "additionalAttributes": [],
        },
        "language": {},
        "securityInfo": {},
        "stamps": [],
        "intent": None,
        "entities": {},
        "channelSessionId": None,
        "conversationId": None,
        "customer": None,
        "schedulingMetaData": None,
        "replyToMessageId": None,
    }


def _recording(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("RecorderApp", "APP", "7c9a0f5e-0001-4a4a-8b8b-2d2d2d2d2d2d")
    # Recorders send epoch seconds.
    header["timestamp"] = (_FIRST_TIMESTAMP + number * _BETWEEN_MESSAGES_MS) // 1000
    link = f"https://recorder.example.org/calls/{rng.getrandbits(64):016x}"
    if rng.random() < 0.5:  # noqa: PLR2004 - both shapes are in use
        return header, {"type": "VOICE_RECORDING", "markdownText": "", "mediaUrl": link}
    return header, {"type": "VOICE_RECORDING", "legId": f"leg-{number}", "voiceRecordingUrl": link}


def _survey(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("Web PCS", "APP", "7c9a0f5e-0002-4a4a-8b8b-2d2d2d2d2d2d")
    question = {
        "id": "q-1",
        "label": "How satisfied were you with our service? ☺",
        "valueType": "Number",
        "attributeType": "OPTIONS",
        "answer": [{"value": str(rng.randint(1, 5)), "isSelected": True}],
    }
    sections = [{"sectionId": "s-1", "sectionName": "Service", "attributes": [question]}]
    body = {"type": "FORM_DATA", "markdownText": None, "formId": f"form-{number % 7}", "formTitle": "After the call"}
    return header, {**body, "sections": sections, "additionalDetail": {"submissionSource": "Web PCS"}}


def _ivr(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("IVR", "IVR", "7c9a0f5e-0003-4a4a-8b8b-2d2d2d2d2d2d")
    header["intent"] = "IVR_AGGREGATED_ACTIVITY"
    start = _FIRST_TIMESTAMP + number * _BETWEEN_MESSAGES_MS
    steps = [
        {"menu": menu, "selection": str(rng.randint(0, 9)), "timestamp": start + 4000 * place, "metadata": None}
        for place, menu in enumerate(("language", "main menu", "accounts"))
    ]
    body = {"type": "IVR_AGGREGATED_ACTIVITY", "callId": f"{rng.getrandbits(128):032x}", "leg": "1"}
    times = {"startTime": start, "endTime": start + 12_000}
    return header, {**body, "startDirection": "INBOUND", "endDirection": "TRANSFER", **times, "activities": steps}


def _scheduled(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("CAMPAIGN_SCHEDULER", "APP", "7c9a0f5e-0004-4a4a-8b8b-2d2d2d2d2d2d")
    header["schedulingMetaData"] = {
        "channelType": rng.choice(["SMS", "WHATSAPP", "CX_VOICE"]),
        "scheduledDatetime": _FIRST_TIMESTAMP + number * 60_000,
        "queue": "callbacks",
        "agent": None,
    }
    return header, {"type": "PLAIN", "markdownText": "We call you back at the time you chose."}


def _delivery(rng: random.Random, _number: int) -> tuple[Json, Json]:
    header = _header("CAMPAIGN_SCHEDULER", "CONNECTOR", "7c9a0f5e-0004-4a4a-8b8b-2d2d2d2d2d2d")
    body = {"type": "DELIVERYNOTIFICATION", "messageId": f"{rng.getrandbits(96):024x}"}
    return header, {**body, "status": rng.choice(["DELIVERED", "READ", "FAILED"]), "reasonCode": "200"}


def _outbound_sms(_rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header(f"agent{number % 12}", "AGENT", f"aaaaaaaa-bbbb-4ccc-8ddd-{number % 12:012x}")
    attributes = [{"key": "messageDirection", "type": "String2000", "value": "outbound"}]
    header["channelData"] = {
        "channelCustomerIdentifier": "+15550100",
        "serviceIdentifier": "7001",
        "additionalAttributes": attributes,
    }
    return header, {"type": "PLAIN", "markdownText": "Your parcel is ready."}


def _loan_step(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("LoanApp", "APP", "7c9a0f5e-0005-4a4a-8b8b-2d2d2d2d2d2d")
    step = number % 5 + 1
    body = {"type": "LOAN_STEP", "markdownText": f"step {step} of 5", "stepCode": "KYC"}
    return header, {
        **body,
        "amount": rng.randint(1, 500) * 100,
        "checks": {"income": True, "score": rng.randint(300, 850)},
    }


def _wrap_up(rng: random.Random, _number: int) -> tuple[Json, Json]:
    header = _header("QualityApp", "APP", "7c9a0f5e-0006-4a4a-8b8b-2d2d2d2d2d2d")
    wrapups = [{"categoryName": "Result", "value": rng.choice(["Solved", "Call back", "Escalated"])}]
    return header, {"type": "WRAPUP", "markdownText": None, "wrapups": wrapups, "note": "pushed by a third party"}


def _widget_form(rng: random.Random, number: int) -> tuple[Json, Json]:
    header = _header("Web widget", "APP", "7c9a0f5e-0007-4a4a-8b8b-2d2d2d2d2d2d")
    header["intent"] = "WIDGET_FORM_ACTIVITY"
    fields = [{"key": "subject", "type": "String100", "value": rng.choice(["billing", "delivery", "other"])}]
    return header, {"type": "WIDGET_FORM", "markdownText": "", "formNumber": number, "fields": fields}


_OF_CONVERSATION: Final[Sequence[tuple[str, Any, bool]]] = (
    ("recording link", _recording, True),
    ("IVR summary", _ivr, True),
    ("survey", _survey, False),
    ("custom type", _loan_step, False),
    ("wrap-up", _wrap_up, False),
    ("widget form", _widget_form, False),
    ("delivery notification", _delivery, False),
)
"""What it is, how it is made, and whether it belongs to a channel session."""

_STAND_ALONE: Final[Sequence[tuple[str, Any]]] = (
    ("scheduled activity", _scheduled),
    ("delivery notification", _delivery),
    ("outbound SMS", _outbound_sms),
)


def _without(message: Json, *path: str) -> bytes:
    inner = message
    for key in path[:-1]:
        inner = inner[key]
    inner.pop(path[-1], None)
    return _bytes(message)


def _with(message: Json, part: str, **values: object) -> bytes:
    message[part].update(values)
    return _bytes(message)


_NOWHERE: Final[dict[str, object]] = {"conversationId": "", "channelSessionId": None, "customer": None}

_SPOILED: Final[Sequence[tuple[str, str, Callable[[Json], bytes]]]] = (
    ("cut off", "malformed_json", lambda message: _bytes(message)[:-20]),
    ("two in one", "not_an_object", lambda message: b"[" + _bytes(message) + b"]"),
    (
        "Latin-1",
        "invalid_utf8",
        lambda message: (
            _with(message, "body", markdownText="gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n")
            .decode()
            .encode("latin-1", "replace")
        ),
    ),
    ("key twice", "duplicate_key", lambda message: b'{"id":"first",' + _bytes(message)[1:]),
    ("not a number", "number_not_finite", lambda message: _with(message, "body", score=float("nan"))),
    ("huge integer", "integer_out_of_range", lambda message: _with(message, "body", amount=2**70)),
    ("no sender", "missing_sender", lambda message: _without(message, "header", "sender")),
    ("sender without id", "missing_sender_id", lambda message: _without(message, "header", "sender", "id")),
    ("sender without type", "missing_sender_type", lambda message: _without(message, "header", "sender", "type")),
    ("no body", "missing_body", lambda message: _without(message, "body")),
    ("body without type", "missing_body_type", lambda message: _with(message, "body", type="  ")),
    ("no anchor", "missing_anchor", lambda message: _with(message, "header", **_NOWHERE)),
    (
        "wrap-up without reasons",
        "missing_field",
        lambda message: _with(message, "body", type="WRAPUP", wrapups=None),
    ),
    ("number as text", "wrong_type", lambda message: _with(message, "header", stamps="none", conversationId="c-1")),
    ("odd date", "invalid_timestamp", lambda message: _with(message, "header", timestamp="last Tuesday")),
)
"""What is wrong, the code it has to be rejected with, and how to make it wrong."""
