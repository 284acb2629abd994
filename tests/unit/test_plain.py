"""The quick check says yes only where the full one finds nothing and changes nothing: what comes out is the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError
from pydantic import field_validator

from tests.fuzz import shapes
from tests.support.deliveries import delivery
from tests.support.examples import NAMES, RECEIVED_AT, accepted, document
from worker import compiled, contract
from worker.cim import CimMessage, Rejected, parse, parsing
from worker.cim.bodies import BODY_MODELS
from worker.cim.models import Body
from worker.cim.plain import _check, read_plain
from worker.cim.scan import scan
from worker.cim.timestamps import LAST_MS
from worker.conversations.conversation import ChannelSession, Conversation, Room
from worker.pipeline.reading import _outgoing
from worker.pipeline.translate import translate
from worker.ports import Outgoing

CONVERSATION = Conversation(
    "c", "ACTIVE", "customer", Room.of({"id": "r"}), (ChannelSession.of({"id": "s", "state": {"name": "STARTED"}}),), 1
)
PLAIN = [accepted(document(name)).wire for name in NAMES if name != "survey_form_data"]
"""Every example, as it is after normalising; without one that has so many digits in a row that they are looked at."""


def judge(body: bytes) -> CimMessage | Rejected:
    return parse(body, received_at=RECEIVED_AT)


def judge_fully(body: bytes) -> CimMessage | Rejected:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "read_plain", lambda *_: None)
        return judge(body)


def outcome(judged: CimMessage | Rejected) -> tuple[Any, ...]:
    if isinstance(judged, Rejected):
        return (judged,)
    events = [translate(judged, known, now=1).event_bytes() for known in (None, CONVERSATION)]
    return (judged._replace(parsed=judged.wire, json=None, sender_json=None, customer_gap=None), judged.sender, *events)


def is_plain(body: bytes) -> bool:
    scanned = scan(body, 64)
    return scanned is not None and read_plain(body, scanned) is not None


@pytest.mark.parametrize("plain", PLAIN, ids=lambda plain: plain["body"]["type"])
def test_a_normalised_example_is_plain_and_gives_the_same_bytes(plain: dict[str, Any]) -> None:
    body = orjson.dumps(plain)
    assert is_plain(body)
    assert outcome(judge(body)) == outcome(judge_fully(body))


@given(st.sampled_from(PLAIN), st.lists(shapes.spoilings(), min_size=1, max_size=2))
@settings(max_examples=1500, deadline=None)
def test_whatever_is_changed_in_it_both_ways_give_the_same(plain: dict[str, Any], spoilings: list[Any]) -> None:
    body = shapes.spoilt(orjson.dumps(plain), spoilings)
    assert outcome(judge(body)) == outcome(judge_fully(body))


@pytest.mark.parametrize("customer", [..., None, {}, {"_id": None}, {"_id": ""}, {"_id": "u"}, {"firstName": "A"}])
def test_a_message_without_a_customer_gets_the_one_the_registry_knows_in_the_same_place(customer: Any) -> None:
    header = {name: value for name, value in PLAIN[0]["header"].items() if name != "customer"}
    header = {"conversationId": "c"} | ({} if customer is ... else {"customer": customer}) | header
    body = orjson.dumps({**PLAIN[0], "header": header})
    assert is_plain(body)
    assert outcome(judge(body)) == outcome(judge_fully(body))


@pytest.mark.parametrize("seconds", [1, 1_760_000_000, 10**11 - 1, 10**11, 0, -1, 10**14])
@pytest.mark.parametrize("customer", [..., None, {"_id": "u"}])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_timestamp_in_seconds_is_given_in_milliseconds(seconds: int, customer: Any, is_first: bool) -> None:  # noqa: FBT001
    header = {name: value for name, value in PLAIN[0]["header"].items() if name not in {"customer", "timestamp"}}
    header = {"conversationId": "c"} | header | ({} if customer is ... else {"customer": customer})
    header = {"timestamp": seconds, **header} if is_first else {**header, "timestamp": seconds}
    body = orjson.dumps({**PLAIN[0], "header": header})
    is_built = compiled.scan is not None
    assert is_plain(body) or not is_built or not 0 < seconds <= LAST_MS
    assert outcome(judge(body)) == outcome(judge_fully(body))


@pytest.mark.parametrize("body_type", [*BODY_MODELS, "MADE_UP"])
def test_every_body_type_has_a_quick_check(body_type: str) -> None:
    bodies = [plain["body"] for plain in PLAIN if plain["body"]["type"] == body_type]
    whole = {**PLAIN[0], "body": bodies[0] if bodies else {"type": body_type}}
    body = orjson.dumps(whole)
    assert is_plain(body) is not isinstance(judge_fully(body), Rejected)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("header/timestamp", "1760000000123"),
        ("header/timestamp", None),
        ("header/channelData", None),
        ("header/channelData/additionalAttributes", None),
        ("header/channelData/additionalAttributes", [{"key": "k", "value": 1}]),
        ("id", ""),
        ("id", "line\nend"),
        ("header/conversationId", " "),
        ("header/roomId", "r" * 300),
        ("body/type", "\x0b"),
    ],
)
def test_what_has_to_be_normalised_or_looked_at_is_not_plain(path: str, value: Any) -> None:
    whole = orjson.loads(orjson.dumps(PLAIN[0]))
    *parents, last = path.split("/")
    place = whole
    for part in parents:
        place = place[part]
    place[last] = value
    assert not is_plain(orjson.dumps(whole))


def test_a_model_with_validators_of_its_own_has_no_quick_check() -> None:
    class Own(Body):
        number: int | None = None

        @field_validator("number")
        @classmethod
        def _even(cls, value: int | None) -> int | None:
            return value

    body = orjson.dumps(PLAIN[0])
    _check(Body)(body)
    with pytest.raises(ValidationError):
        _check(Own)(body)


def test_what_is_made_for_every_message_has_all_its_fields() -> None:
    body = orjson.dumps(PLAIN[0])
    message, scanned = judge(body), scan(body, 64)
    assert isinstance(message, CimMessage)
    assert scanned is not None
    activity = translate(message, CONVERSATION, now=1)
    outgoing = _outgoing(delivery(body), activity, 1)
    for made in (message, message.identity, scanned, activity, outgoing):
        assert len(made) == len(made._fields)
    assert outgoing == Outgoing(
        contract.HUB,
        activity.conversation_id or "",
        activity.event_id,
        activity.event_bytes(),
        correlation_id=message.id,
        type=activity.name,
        app_id=contract.APP_ID,
        timestamp=0,
        headers={},
    )
