"""What event a message becomes, under which identity, and where it goes first."""

import json
from dataclasses import replace
from typing import Any

import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from tests.support.examples import NAMES, accepted, document, encode, raw, spoilt
from tests.support.identity import event_id_of
from worker.cim import CimMessage, parse
from worker.cim.decode import DEEPEST
from worker.conversations.conversation import ChannelSession, Conversation, ConversationState, Room
from worker.pipeline.ports import StoredBecause
from worker.pipeline.translate import EVENT_NAME, Activity, Destination, contradictions, place, translate

NOW = 1_760_000_222_333
STARTED = {"id": "s-live", "state": {"name": "STARTED"}, "channel": {"name": "Web"}}
ENDED = {"id": "s-over", "state": {"name": "ENDED"}}
ROOM = {"id": "r-1", "mode": "CONTACT_CENTER"}
CONVERSATION = Conversation(
    "conv-1",
    ConversationState.ACTIVE,
    "cust-1",
    Room.of(ROOM),
    (ChannelSession.of(STARTED), ChannelSession.of(ENDED)),
    1,
)


def anchored(**header: Any) -> CimMessage:
    message = document("loan_step")
    message["header"].update({"conversationId": None, "channelSessionId": None, "customer": None, **header})
    return accepted(message)


def activity(message: CimMessage, conversation: Conversation | None = None) -> Activity:
    return translate(message, conversation, now=NOW)


def test_the_envelope_has_the_fields_of_a_cim_event_in_their_order() -> None:
    message = anchored(conversationId="conv-1", channelSessionId="s-live", customer={"_id": "cust-1"})
    assert activity(message, CONVERSATION).event == {
        "id": message.event_id,
        "name": "THIRD_PARTY_ACTIVITY",
        "type": "ACTIVITY",
        "timestamp": NOW,
        "conversationId": "conv-1",
        "eventEmitter": message.sender,
        "channelSession": STARTED,
        "data": message.wire,
        "roomInfo": ROOM,
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_event_carries_the_message_unchanged_as_compact_utf_8(name: str) -> None:
    message = accepted(raw(name))
    result = activity(message)
    assert json.loads(result.event_bytes())["data"] == message.wire
    assert result.event_bytes() == json.dumps(result.event, ensure_ascii=False, separators=(",", ":")).encode()
    assert result.event_id == message.event_id == event_id_of(raw(name))


def test_the_deepest_message_and_the_integers_of_the_store_can_be_written() -> None:
    deep: Any = 1
    for _ in range(DEEPEST - 3):
        deep = {"a": deep}
    message = document("loan_step")
    message["header"]["sender"]["additionalDetail"] = deep
    parsed = parse(encode(message), received_at=NOW, max_depth=DEEPEST)
    assert isinstance(parsed, CimMessage)
    session = {**STARTED, "startedAt": Int64(NOW)}
    conversation = replace(CONVERSATION, channel_sessions=(ChannelSession.of(session),))
    event = json.loads(activity(parsed, conversation).event_bytes())
    assert event["data"]["header"]["sender"]["additionalDetail"] == deep
    assert event["channelSession"] == session


def test_the_event_on_the_wire_is_the_event_that_is_stored() -> None:
    session = {**STARTED, "customer": {"_id": "c", "name": "Zoë 😀"}, "none": None, "rate": 0.5, "list": [{}, True]}
    conversation = replace(CONVERSATION, channel_sessions=(ChannelSession.of(session),))
    result = activity(anchored(conversationId="conv-1"), conversation)
    assert json.loads(result.event_bytes()) == result.event
    assert result.event["channelSession"] == session


def test_a_registry_value_that_json_has_no_type_for_becomes_text() -> None:
    odd = ObjectId("66aa00000000000000000010")
    room = Room.of({"id": odd, "mode": "CONTACT_CENTER"})
    assert (room.id, room.value["id"]) == (None, str(odd))
    assert ChannelSession.of({"id": "s-1", "tenant": odd}).value == {"id": "s-1", "tenant": str(odd)}


def test_without_registry_knowledge_session_and_room_are_null() -> None:
    result = activity(anchored(conversationId="conv-1", customer={"_id": "cust-1"}))
    assert (result.event["channelSession"], result.event["roomInfo"]) == (None, None)
    assert (result.conversation_id, result.customer_id) == ("conv-1", "cust-1")
    assert (result.channel_session_id, result.room_id) == (None, None)


def test_a_stand_alone_activity_belongs_to_no_conversation() -> None:
    result = activity(anchored(customer={"_id": "cust-1"}))
    assert result.event["conversationId"] is None
    assert (result.conversation_id, result.customer_id) == (None, "cust-1")


def test_the_conversation_of_a_session_is_filled_in_and_the_message_stays_as_sent() -> None:
    result = activity(anchored(channelSessionId="s-over"), CONVERSATION)
    assert result.conversation_id == result.event["conversationId"] == "conv-1"
    assert result.event["channelSession"] == ENDED
    assert result.event["data"]["header"]["conversationId"] is None
    assert (result.customer_id, result.channel_session_id, result.room_id) == ("cust-1", "s-over", "r-1")


@pytest.mark.parametrize(
    ("customer", "expected"),
    [
        (None, {"_id": "cust-1"}),
        ({}, {"_id": "cust-1"}),
        ({"firstName": "Sam", "_id": ""}, {"firstName": "Sam", "_id": "cust-1"}),
        ({"_id": "c-x", "firstName": "Sam"}, {"_id": "c-x", "firstName": "Sam"}),
    ],
)
def test_the_customer_the_registry_knows_stands_where_the_message_names_none(
    customer: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    message = anchored(conversationId="conv-1", customer=customer)
    before = message.event_id
    result = activity(message, CONVERSATION)
    assert result.event["data"]["header"]["customer"] == expected
    assert json.loads(result.event_bytes()) == result.event
    assert (message.wire["header"]["customer"], message.event_id) == (customer, before), "the message itself stays"


def test_without_a_customer_in_the_registry_the_message_stays_as_sent() -> None:
    message = anchored(conversationId="conv-1")
    assert activity(message, replace(CONVERSATION, customer_id=None)).data is message.wire


@pytest.mark.parametrize(
    ("header", "owner", "expected"),
    [
        ({"customer": {"_id": "cust-1"}}, None, []),
        ({"customer": {"_id": "cust-2"}}, None, ["customer"]),
        ({"channelSessionId": "s-9"}, replace(CONVERSATION, id="conv-2"), ["channel_session"]),
        ({"channelSessionId": "s-live"}, CONVERSATION, []),
        (
            {"customer": {"_id": "x"}, "channelSessionId": "s"},
            replace(CONVERSATION, id="b"),
            ["customer", "channel_session"],
        ),
    ],
)
def test_anchors_that_contradict_each_other_are_told_and_change_no_route(
    header: dict[str, Any], owner: Conversation | None, expected: list[str]
) -> None:
    message = anchored(conversationId="conv-1", **header)
    assert list(contradictions(message.customer_id, CONVERSATION, owner)) == expected
    assert activity(message, CONVERSATION).conversation_id == "conv-1"
    assert place(message, CONVERSATION) == (Destination.HUB, None)


def test_a_registry_that_knows_no_customer_contradicts_none() -> None:
    message = anchored(conversationId="conv-1", customer={"_id": "cust-2"})
    assert list(contradictions(message.customer_id, replace(CONVERSATION, customer_id=None), None)) == []


def test_an_intent_may_name_the_event() -> None:
    names = {"VOICE_RECORDING": "MEDIA_RECORDING"}
    for intent, expected in (("VOICE_RECORDING", "MEDIA_RECORDING"), ("OTHER", EVENT_NAME), (None, EVENT_NAME)):
        message = anchored(conversationId="conv-1", intent=intent)
        for conversation in (None, CONVERSATION):
            result = translate(message, conversation, now=NOW, event_names=names)
            assert result.event["name"] == result.name == expected
        assert translate(message, None, now=NOW).name == EVENT_NAME, "by default every event has one name"


def test_what_the_message_says_goes_before_what_the_registry_knows() -> None:
    message = anchored(conversationId="mine", channelSessionId="s-x", customer={"_id": "c-x"}, roomId="r-x")
    result = activity(message, CONVERSATION)
    assert (result.conversation_id, result.customer_id) == ("mine", "c-x")
    assert (result.channel_session_id, result.room_id) == ("s-x", "r-x")
    assert result.event["channelSession"] is None, "a session the conversation does not have is not made up"


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ((), None),
        ((STARTED, ENDED), STARTED),
        ((ENDED,), ENDED),
        ((STARTED, {"id": "s-2"}), {"id": "s-2"}),
        ((STARTED, {"id": "s-2", "isActive": False}), STARTED),
        ((STARTED, {"id": "s-2", "state": {"name": "CLOSED"}}), STARTED),
    ],
)
def test_a_message_that_names_only_the_conversation_gets_its_last_live_session(
    sessions: tuple[dict[str, Any], ...], expected: dict[str, Any] | None
) -> None:
    conversation = replace(CONVERSATION, channel_sessions=tuple(map(ChannelSession.of, sessions)))
    result = activity(anchored(conversationId="conv-1"), conversation)
    assert result.event["channelSession"] == expected
    assert result.channel_session_id == (expected["id"] if expected else None)


@pytest.mark.parametrize("state", list(ConversationState))
def test_all_states_but_closing_and_closed_are_active(state: ConversationState) -> None:
    active = state not in {"CLOSING", "CLOSED"}
    for spelled in (state, str(state)):
        conversation = replace(CONVERSATION, state=spelled)
        assert conversation.active is active
        for message in (anchored(conversationId="conv-1"), anchored(channelSessionId="s-live")):
            expected = (Destination.HUB, None) if active else (Destination.STORE, StoredBecause.CLOSED)
            assert place(message, conversation) == expected


def test_a_state_nobody_has_heard_of_counts_as_active() -> None:
    assert replace(CONVERSATION, state="PAUSED_FOR_LUNCH").active is True


@pytest.mark.parametrize(
    ("header", "expected", "because"),
    [
        ({"conversationId": "unheard-of"}, Destination.HUB, None),
        ({"conversationId": "unheard-of", "channelSessionId": "s"}, Destination.HUB, None),
        ({"channelSessionId": "unheard-of"}, Destination.STORE, StoredBecause.UNKNOWN_SESSION),
        ({"channelSessionId": "s", "conversationId": ""}, Destination.STORE, StoredBecause.UNKNOWN_SESSION),
        ({"customer": {"_id": "cust-1"}}, Destination.STORE, StoredBecause.STAND_ALONE),
    ],
)
def test_without_registry_knowledge_only_a_conversation_id_is_worth_asking_the_broker(
    header: dict[str, Any], expected: Destination, because: StoredBecause | None
) -> None:
    assert place(anchored(**header), None) == (expected, because)


def test_a_message_without_a_timestamp_is_the_same_event_whenever_it_is_received() -> None:
    body = json.dumps(spoilt("header/timestamp", ...)).encode()
    assert activity(accepted(body)).event_id == activity(accepted(body)).event_id
