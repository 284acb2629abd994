"""What lifecycle events say about conversations, and that neither order nor repetition matters."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.cim import Rejected
from worker.conversations.conversation import (
    UNHEARD_OF,
    UNKNOWN_STATE,
    ChannelSession,
    ConversationRecord,
    ConversationState,
    Fact,
    UnreadableRecord,
)
from worker.conversations.lifecycle import (
    ID_PATHS,
    Ignored,
    LifecycleChange,
    merge,
    parse_lifecycle,
)
from worker.conversations.unreadable import UnreadableLog

FOLDER = Path(__file__).parents[2] / "schemas" / "examples" / "lifecycle"
CONVERSATION = "65f0c0ffee0000000000abcd"
CUSTOMER = "65f0c0ffee00000000001234"
WEB, SMS = "66aa00000000000000000010", "66aa00000000000000000011"
T = 1_760_000_000_000
RECEIVED = T + 10_000


def example(name: str, **envelope: Any) -> LifecycleChange:
    event = json.loads((FOLDER / f"{name}.json").read_bytes())
    return read({**event, **envelope})


def read(event: Any) -> LifecycleChange:
    result = parse_lifecycle(json.dumps(event).encode(), received_at=RECEIVED)
    assert isinstance(result, LifecycleChange), result
    return result


def told(*changes: LifecycleChange) -> ConversationRecord:
    record: ConversationRecord | None = None
    for change in changes:
        record = merge(record, change) or record
    assert record is not None
    return record


def session_event(name: str, at: int, session_id: str = "s-1", **session: Any) -> LifecycleChange:
    data = {"id": session_id, "conversationId": "c-1", "state": {"name": "STARTED"}, **session}
    return read({"name": name, "timestamp": at, "data": data})


def state_event(state: str, at: int, **conversation: Any) -> LifecycleChange:
    return read({"name": "TOPIC_STATE_CHANGED", "timestamp": at, "data": {"id": "c-1", "state": state, **conversation}})


def customer_event(customer: str, at: int) -> LifecycleChange:
    data = {"conversationId": "c-1", "customer": {"_id": customer}}
    return read({"name": "ASSOCIATED_CUSTOMER_CHANGED", "timestamp": at, "data": data})


def test_a_state_change_brings_the_whole_conversation() -> None:
    change = example("topic_state_change_event")
    assert (change.conversation_id, change.at) == (CONVERSATION, T + 1000)
    assert change.state == Fact("ACTIVE", T + 1000)
    assert change.customer_id == Fact(CUSTOMER, T + 1000)
    assert change.room_info == Fact({"id": "66aa00000000000000000030", "mode": "CONTACT_CENTER"}, T + 1000)
    assert [(fact.value["id"], fact.at) for fact in change.sessions] == [(WEB, T + 1000), (SMS, T + 1000)]


def test_the_life_of_a_conversation_ends_with_everything_known_and_its_sessions_kept() -> None:
    names: tuple[str, ...] = ("channel_session_started", "topic_state_change_event", "channel_session_ended")
    names += ("associated_customer_changed", "topic_state_changed")
    record = told(*map(example, names))
    conversation = record.to_conversation()
    assert (conversation.id, conversation.state, conversation.active) == (CONVERSATION, "CLOSED", False)
    assert {session.id for session in conversation.channel_sessions} == {WEB, SMS}
    assert conversation.session(WEB) is not None
    assert conversation.updated_at == T + 4000


def test_a_started_session_creates_an_unknown_conversation() -> None:
    record = told(example("channel_session_started"))
    assert record.state == Fact("CREATED", UNHEARD_OF)
    assert record.customer_id.value == CUSTOMER
    assert record.to_conversation().active
    assert record.updated_at == T


def test_any_told_state_even_an_older_one_replaces_the_one_concluded_from_a_session() -> None:
    record = told(session_event("CHANNEL_SESSION_STARTED", T), state_event("ACTIVE", T - 5000))
    assert record.state == Fact("ACTIVE", T - 5000)


def test_an_ended_session_alone_is_kept_and_leaves_the_state_unknown() -> None:
    record = told(session_event("CHANNEL_SESSION_EXPIRED", T))
    assert record.state.value == UNKNOWN_STATE
    assert record.to_conversation().session("s-1") is not None


@pytest.mark.parametrize("name", ["CHANNEL_SESSION_ENDED", "CHANNEL_SESSION_EXPIRED"])
@pytest.mark.parametrize("state", [None, "STARTED", {"name": "STARTED", "reasonCode": "X"}, {"name": "ENDED"}])
def test_a_session_whose_end_was_told_is_not_current_whatever_its_copy_says(name: str, state: Any) -> None:
    record = told(
        session_event("CHANNEL_SESSION_STARTED", T, "s-live"), session_event(name, T + 5, "s-over", state=state)
    )
    current = record.to_conversation().current_session
    assert current is not None
    assert current.id == "s-live"


def test_a_late_start_does_not_bring_an_ended_session_back() -> None:
    record = told(session_event("CHANNEL_SESSION_ENDED", T + 5), session_event("CHANNEL_SESSION_STARTED", T))
    assert record.sessions[0].value["state"]["name"] == "ENDED"


def test_a_closed_conversation_is_opened_again_only_by_newer_news() -> None:
    closed = told(state_event("CLOSED", T))
    old_news = merge(closed, state_event("ACTIVE", T - 1))
    assert old_news is not None
    assert old_news.state == closed.state
    reopened = merge(closed, state_event("ACTIVE", T + 1))
    assert reopened is not None
    assert reopened.to_conversation().active


def test_a_session_s_old_copy_of_the_customer_does_not_undo_a_new_association() -> None:
    record = told(customer_event("new", T), session_event("CHANNEL_SESSION_ENDED", T + 5, customer={"_id": "old"}))
    assert record.customer_id == Fact("new", T)


@pytest.mark.parametrize(
    ("data", "envelope"),
    [
        ({"id": "c-1", "state": "ACTIVE", "customer": {"_id": "x"}}, {}),
        ({"conversationId": "c-1", "customer": {"_id": "x"}}, {}),
        ({"customer": {"_id": "x"}}, {"conversationId": "c-1"}),
        ({"_id": "x", "firstName": "Sam"}, {"conversationId": "c-1"}),
        ({"customerId": "x"}, {"conversationId": "c-1"}),
    ],
)
def test_a_new_customer_is_found_in_every_shape(data: Any, envelope: Any) -> None:
    change = read({"name": "ASSOCIATED_CUSTOMER_CHANGED", "timestamp": T, "data": data, **envelope})
    assert (change.conversation_id, change.customer_id) == ("c-1", Fact("x", T))


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        *((T, T), (T // 1000, T), (str(T), T), ("2025-10-09T08:53:20.000+00:00", T), ("2025-10-09T08:53:20", T)),
        *((None, RECEIVED), ("", RECEIVED), (-5, 1)),
    ],
)
def test_event_times_come_in_every_form_and_default_to_receipt(timestamp: Any, expected: int) -> None:
    assert example("channel_session_started", timestamp=timestamp).at == expected


@pytest.mark.parametrize("name", ["AGENT_SUBSCRIBED", "THIRD_PARTY_ACTIVITY", "CUSTOMER_LEFT", "whatever"])
def test_every_other_event_is_ignored(name: str) -> None:
    assert parse_lifecycle(json.dumps({"name": name}).encode(), received_at=T) == Ignored(name)


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (b"{", "malformed_json", ""),
        (b"[]", "not_an_object", ""),
        (b"{}", "missing_field", "/name"),
        (b'{"name":"TOPIC_STATE_CHANGED"}', "missing_field", "/data"),
        (b'{"name":"TOPIC_STATE_CHANGED","data":"x"}', "wrong_type", "/data"),
        (b'{"name":"TOPIC_STATE_CHANGED","data":{"state":"ACTIVE"}}', "missing_field", "/data/id"),
        (b'{"name":"TOPIC_STATE_CHANGED","data":{"id":"c"}}', "missing_field", "/data/state"),
        (b'{"name":"TOPIC_STATE_CHANGED","timestamp":"x","data":{"id":"c"}}', "invalid_timestamp", "/timestamp"),
        (b'{"name":"CHANNEL_SESSION_STARTED","data":{"id":"s"}}', "missing_field", "/data/conversationId"),
        (b'{"name":"CHANNEL_SESSION_STARTED","data":{"conversationId":"c"}}', "missing_field", "/data/id"),
        (b'{"name":"ASSOCIATED_CUSTOMER_CHANGED","data":{"customerId":"x"}}', "missing_field", "/conversationId"),
        (
            b'{"name":"ASSOCIATED_CUSTOMER_CHANGED","data":{"id":"c"}}',
            "missing_field",
            "/data/customer/_id",
        ),
        (
            b'{"name":"TOPIC_STATE_CHANGED","data":{"state":"ACTIVE","id":"' + b"c" * 243 + b'"}}',
            "id_too_long",
            "/data/id",
        ),
        (b'{"name":"TOPIC_STATE_CHANGED","data":{"state":"ACTIVE","id":"c-1\\n"}}', "invalid_id", "/data/id"),
        (
            b'{"name":"CHANNEL_SESSION_ENDED","data":{"id":"s","conversationId":"' + b"c" * 243 + b'"}}',
            "id_too_long",
            "/data/conversationId",
        ),
    ],
)
def test_an_unreadable_event_is_rejected_with_code_and_place(body: bytes, code: str, pointer: str) -> None:
    result = parse_lifecycle(body, received_at=T)
    assert isinstance(result, Rejected)
    assert [(problem.code, problem.pointer) for problem in result.problems] == [(code, pointer)]


@pytest.mark.parametrize("path", ID_PATHS, ids="/".join)
@pytest.mark.parametrize("name", ["topic_state_changed", "channel_session_started", "associated_customer_changed"])
def test_a_control_character_in_any_id_is_refused_with_its_place(name: str, path: tuple[str, ...]) -> None:
    event = json.loads((FOLDER / f"{name}.json").read_bytes())
    *parents, last = path
    place = event
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = "u-1\n"
    result = parse_lifecycle(json.dumps(event).encode(), received_at=T)
    assert isinstance(result, Rejected)
    assert [(one.code, one.pointer) for one in result.problems] == [("invalid_id", "/" + "/".join(path))]


def test_a_session_among_the_participants_has_no_control_character_in_its_id_either() -> None:
    event = json.loads((FOLDER / "topic_state_change_event.json").read_bytes())
    participants = event["data"]["participants"]
    participants[1]["participant"]["id"] = "s-1\x1b[2J"
    result = parse_lifecycle(json.dumps(event).encode(), received_at=T)
    assert isinstance(result, Rejected)
    assert [one.pointer for one in result.problems] == ["/data/participants/1/participant/id"]


def test_the_document_has_flat_fields_to_query_by() -> None:
    document = told(example("topic_state_change_event"), example("channel_session_ended")).to_document()
    assert document["_id"] == CONVERSATION
    assert (document["state"], document["customerId"]) == ("ACTIVE", CUSTOMER)
    assert document["channelSessionIds"] == [SMS, WEB]
    assert [session["id"] for session in document["channelSessions"]] == [SMS, WEB]
    assert document["channelSessionUpdatedAt"] == [T + 1000, T + 2000]
    assert (document["updatedAt"], document["stateUpdatedAt"]) == (T + 2000, T + 1000)
    assert (document["customerUpdatedAt"], document["roomUpdatedAt"]) == (T + 1000, T + 1000)


def test_a_document_written_by_hand_without_times_gives_way_to_any_news() -> None:
    record = ConversationRecord.from_document({"_id": "c-1", "state": "CLOSED", "channelSessions": [{"id": "s-1"}]})
    assert isinstance(record, ConversationRecord)
    assert record.to_conversation().session("s-1") == ChannelSession.of({"id": "s-1"})
    newer = merge(record, state_event("ACTIVE", 1))
    assert newer is not None
    assert newer.state.value == "ACTIVE"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"_id": 5}, "_id is of type int, must be a string"),
        ({"_id": "x" * 243}, "_id is blank, has a control character or is longer than 242 bytes"),
        ({"_id": "c-1\n"}, "_id is blank, has a control character"),
        ({"state": 5}, "state is of type int, must be a string"),
        ({"stateUpdatedAt": datetime.now(UTC)}, "stateUpdatedAt is of type datetime, must be a whole number"),
        ({"customerUpdatedAt": True}, "customerUpdatedAt is of type bool"),
        ({"roomUpdatedAt": 1.5}, "roomUpdatedAt is of type float"),
        ({"stateUpdatedAt": -1}, "stateUpdatedAt is of type int"),
        ({"customerId": {"_id": "u"}}, "customerId is of type dict, must be a string"),
        ({"roomInfo": "room 5"}, "roomInfo is of type str, must be an object"),
        ({"channelSessions": {"id": "s"}}, "channelSessions is of type dict, must be an array"),
        ({"channelSessions": ["s"]}, "channelSessions is of type str, must be an object"),
        ({"channelSessions": [{"id": 5}]}, "channelSessions.id is of type int, must be a string that is not blank"),
        ({"channelSessionUpdatedAt": 5}, "channelSessionUpdatedAt is of type int, must be an array"),
        ({"channelSessionUpdatedAt": ["x"]}, "channelSessionUpdatedAt is of type str"),
        ({"revision": "1"}, "revision is of type str"),
        ({"roomInfo": {"n": 2**70}}, "roomInfo cannot be written as JSON"),
    ],
)
def test_a_document_with_a_field_of_another_type_is_no_record_and_says_why(
    fields: dict[str, Any], problem: str
) -> None:
    record = ConversationRecord.from_document({"_id": "c-1", "state": "ACTIVE", **fields})
    assert isinstance(record, UnreadableRecord)
    assert record.id == str(fields.get("_id", "c-1"))
    assert record.problem.startswith(problem)


def test_numbers_written_by_a_shell_are_doubles_and_taken() -> None:
    record = ConversationRecord.from_document({"_id": "c-1", "state": "ACTIVE", "stateUpdatedAt": float(T)})
    assert isinstance(record, ConversationRecord)
    assert record.state == Fact("ACTIVE", T)


def test_an_event_of_the_future_counts_from_its_receipt_and_blocks_nothing_that_follows() -> None:
    two_hours = 7_200_000
    ahead = state_event("ACTIVE", RECEIVED + two_hours)
    assert (ahead.at, ahead.told_ahead) == (RECEIVED, RECEIVED + two_hours)
    record = told(ahead)
    assert record.state == Fact("ACTIVE", RECEIVED)
    closed = merge(record, later("CLOSED", RECEIVED + 1))
    assert closed is not None
    assert closed.state == Fact("CLOSED", RECEIVED + 1)


def test_an_event_of_the_future_that_comes_again_does_not_undo_what_followed_it() -> None:
    ahead = {"name": "TOPIC_STATE_CHANGED", "timestamp": RECEIVED + 7_200_000, "data": {"id": "c-1", "state": "ACTIVE"}}
    record = told(read(ahead), later("CLOSED", RECEIVED + 1))
    again = parse_lifecycle(json.dumps(ahead).encode(), received_at=RECEIVED + 5_000)
    assert isinstance(again, LifecycleChange)
    assert told_after(record, again).state.value == "CLOSED"


def test_an_event_of_the_future_that_waited_for_its_receipt_blocks_nothing_that_was_told_after_it() -> None:
    opened, reopened = later("ACTIVE", T), later("ACTIVE", RECEIVED - 4_000, received_at=RECEIVED + 20)
    closed = state_event("CLOSED", RECEIVED + 7_200_000)
    record = told(opened, closed, reopened)
    assert record.state == Fact("ACTIVE", RECEIVED - 4_000), "told when the closing waited in the queue"
    assert told(opened, closed, later("ACTIVE", T, received_at=RECEIVED + 20)).state.value == "CLOSED", "old news"
    assert told(opened, closed, reopened, later("CLOSED", T + 1, received_at=RECEIVED + 30)).state.value == "ACTIVE"
    assert told(closed, reopened).state.value == "ACTIVE", "also of a conversation nobody had heard of"


def later(state: str, at: int, received_at: int | None = None) -> LifecycleChange:
    body = {"name": "TOPIC_STATE_CHANGED", "timestamp": at, "data": {"id": "c-1", "state": state}}
    change = parse_lifecycle(json.dumps(body).encode(), received_at=at if received_at is None else received_at)
    assert isinstance(change, LifecycleChange)
    return change


def told_after(record: ConversationRecord, change: LifecycleChange) -> ConversationRecord:
    return merge(record, change) or record


def test_a_session_is_claimed_by_its_start_and_by_being_seen_while_active_but_not_by_an_end() -> None:
    seen = state_event("ACTIVE", T + 1, channelSession={"id": "s-1"})
    assert told(seen).sessions[0].since == T + 1
    assert told(seen, state_event("WRAP_UP", T + 5, channelSession={"id": "s-1"})).sessions[0].since == T + 1
    assert told(state_event("CLOSED", T + 1, channelSession={"id": "s-1"})).sessions[0].since == UNHEARD_OF
    assert told(session_event("CHANNEL_SESSION_ENDED", T + 1)).sessions[0].since == UNHEARD_OF
    started = (session_event("CHANNEL_SESSION_STARTED", T + 3), session_event("CHANNEL_SESSION_STARTED", T + 7))
    assert told(seen, *started, session_event("CHANNEL_SESSION_ENDED", T + 9)).sessions[0].since == T + 7


DOCUMENT_FIELDS = (*told(state_event("ACTIVE", T)).to_document(), "revision")
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.datetimes()
    | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name"]), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["_id", *DOCUMENT_FIELDS]), JSON_LIKE, max_size=6))
@settings(max_examples=400, deadline=None)
def test_whatever_is_in_a_document_it_is_a_record_or_says_why_not(fields: dict[str, Any]) -> None:
    record = ConversationRecord.from_document({"_id": "c-1", **fields})
    if isinstance(record, ConversationRecord):
        record.to_conversation()
        merge(record, state_event("CLOSED", T))
        assert ConversationRecord.from_document(record.to_document()) == record


def test_an_unreadable_record_is_reported_once_a_minute() -> None:
    clock, reporter = FakeClock(), RecordingReporter()
    log = UnreadableLog(reporter, clock)
    for _ in range(3):
        log(UnreadableRecord("c-1", "state is of type int"))
        log(UnreadableRecord("c-2", "state is of type int"))
    assert [facts["conversation_id"] for _, facts in reporter.warnings] == ["c-1", "c-2"]
    clock.ms += 60_000
    log(UnreadableRecord("c-1", "state is of type int"))
    assert len(reporter.warnings) == 3


EVENTS = st.one_of(
    st.builds(
        state_event,
        st.sampled_from([*map(str, ConversationState), "NEW_STATE"]),
        st.integers(1, 12).map(lambda at: T + at),
        customer=st.sampled_from([None, {"_id": "a"}, {"_id": "b"}]),
        roomInfo=st.sampled_from([None, {"id": "r1"}, {"id": "r2"}]),
        channelSession=st.sampled_from([None, {"id": "s-1"}, {"id": "s-2", "state": {"name": "ENDED"}}]),
    ),
    st.builds(
        session_event,
        st.sampled_from(["CHANNEL_SESSION_STARTED", "CHANNEL_SESSION_ENDED", "CHANNEL_SESSION_EXPIRED"]),
        st.integers(1, 12).map(lambda at: T + at),
        st.sampled_from(["s-1", "s-2", "s-3"]),
        customer=st.sampled_from([None, {"_id": "a"}, {"_id": "b"}]),
        roomInfo=st.sampled_from([None, {"id": "r1"}]),
    ),
    st.builds(customer_event, st.sampled_from(["a", "b", "c"]), st.integers(1, 12).map(lambda at: T + at)),
)


@given(st.lists(EVENTS, min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_neither_order_nor_repetition_of_events_matters(events: list[LifecycleChange], dice: random.Random) -> None:
    other_order = events + dice.choices(events, k=3)
    dice.shuffle(other_order)
    assert told(*events).to_document() == told(*other_order).to_document()


@given(st.lists(EVENTS, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_record_survives_the_store_and_tells_when_there_is_nothing_to_write(events: list[LifecycleChange]) -> None:
    record = told(*events)
    assert ConversationRecord.from_document(record.to_document()) == record
    assert all(merge(record, event) is None for event in events)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["id", "_id", "state", "participants", "participant", "channelSession", "customer", "roomInfo"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).flatmap(
        lambda data: st.sampled_from(
            ["TOPIC_STATE_CHANGED", "CHANNEL_SESSION_ENDED", "ASSOCIATED_CUSTOMER_CHANGED"]
        ).map(lambda name: json.dumps({"name": name, "conversationId": "c", "data": data}).encode())
    )
)
@settings(max_examples=300, deadline=None)
def test_no_event_raises(body: bytes) -> None:
    result = parse_lifecycle(body, received_at=T)
    if isinstance(result, LifecycleChange):
        record = told(result)
        assert ConversationRecord.from_document(record.to_document()) == record
