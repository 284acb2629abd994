"""Which messages are valid, what is wrong with the others, and that valid ones travel on as they were sent."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import NAMES, RECEIVED_AT, accepted, document, judge, problems, raw, spoilt
from tests.support.identity import content_of, event_id_of
from worker.cim import CimMessage, Rejected, derived_id
from worker.cim.message import MAX_PROBLEMS
from worker.cim.timestamps import SECONDS_BELOW


def normalised(message: dict[str, Any], timestamp: int) -> dict[str, Any]:
    """Return what the documented normalisations, and nothing else, make of a message."""
    wire = copy.deepcopy(message)
    wire["header"]["timestamp"] = timestamp
    channel_data = wire["header"].get("channelData") or {}
    wire["header"]["channelData"] = {"additionalAttributes": [], **channel_data}
    return wire


@pytest.mark.parametrize("name", NAMES)
def test_every_example_travels_on_as_it_was_sent(name: str) -> None:
    message = accepted(raw(name))
    sent = document(name)
    assert message.wire == normalised(sent, message.timestamp)
    assert [*message.wire] == [*sent]
    assert [*message.wire["body"]] == [*sent["body"]]
    assert json.dumps(message.wire["body"]) == json.dumps(sent["body"])


def test_a_message_exposes_what_the_worker_needs() -> None:
    message = accepted(raw("loan_step"))
    assert message.id == "00000000-0000-4000-8000-000000000010"
    assert (message.sender_id, message.sender_name) == ("7c9a0f5e-1111-4a4a-8b8b-2d2d2d2d2d2d", "LoanApp")
    assert message.sender == document("loan_step")["header"]["sender"]
    assert message.conversation_id == "65f0c0ffee0000000000abcd"
    assert message.customer_id == "65f0c0ffee00000000001234"
    assert message.channel_session_id is None
    assert message.room_id is None
    assert message.body_type == "LOAN_STEP"
    assert message.timestamp == 1_760_000_000_010


def test_empty_anchors_count_as_absent_but_stay_as_sent() -> None:
    message = accepted(raw("widget_form"))
    assert message.channel_session_id is None
    assert message.wire["header"]["channelSessionId"] == ""


def test_unknown_keys_are_kept_everywhere() -> None:
    message = document()
    message["x"] = message["header"]["x"] = message["header"]["sender"]["x"] = {"y": [1, None]}
    message["header"]["customer"]["web"] = ["u-77"]
    message["header"]["channelData"]["channelTypeCode"] = "WEB"
    assert accepted(message).wire == message


@pytest.mark.parametrize("given_id", [None, "", "  ", ...])
def test_a_message_without_an_id_gets_one_from_its_content(given_id: Any) -> None:
    sent = spoilt("id", given_id)
    message = accepted(sent)
    assert message.id == message.wire["id"] == derived_id(content_of(sent))
    assert message.event_id == event_id_of(sent)
    assert len(message.id) == 24
    assert int(message.id, 16) >= 0
    assert [*message.wire] == ["id", "header", "body"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (..., RECEIVED_AT),
        (None, RECEIVED_AT),
        ("", RECEIVED_AT),
        (" \t", RECEIVED_AT),
        ("1760000000123", 1_760_000_000_123),
        ("1760000000", 1_760_000_000_000),
        ("0", 0),
        (1_760_000_000_123, 1_760_000_000_123),
        (1_760_000_000, 1_760_000_000_000),
        (1_760_000_000.1236, 1_760_000_000_124),
        (1_760_000_000_123.4, 1_760_000_000_123),
        (0, 0),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        (-1, -1000),
        ("2025-10-09T08:53:20Z", 1_760_000_000_000),
        ("2025-10-09T10:53:20.123+02:00", 1_760_000_000_123),
        ("2025-10-09T08:53:20.123456", 1_760_000_000_123),
        ("2025-10-09T08:53:20.123456789Z", 1_760_000_000_123),
        ("2025-10-09T08:53:20.123+0000", 1_760_000_000_123),
        ("2025-10-09 08:53Z", 1_759_999_980_000),
        ("2025-10-09", 1_759_968_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
    ],
)
def test_timestamps_become_epoch_milliseconds(sent: Any, expected: int) -> None:
    message = accepted(spoilt("header/timestamp", sent))
    assert message.timestamp == message.wire["header"]["timestamp"] == expected
    assert type(message.timestamp) is int


@pytest.mark.parametrize(
    "sent",
    [
        "now",
        "-1",
        "1.5",
        "1_000",
        " 1760000000123",
        "٣",
        "1" * 1000,
        "2025-W41-4",
        "2025-10-09T8:53",
        "0001-01-01T00:00:00+01:00",
        "2025-13-01",
        True,
        [],
        {},
        10**15,
        -(10**14),
        1e300,
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_anything_else_is_no_timestamp(sent: Any) -> None:
    assert problems(spoilt("header/timestamp", sent)) == [("invalid_timestamp", "/header/timestamp")]


@pytest.mark.parametrize("sent", [..., None, {}, {"additionalAttributes": None}])
def test_channel_data_always_has_an_array_of_attributes(sent: Any) -> None:
    assert accepted(spoilt("header/channelData", sent)).wire["header"]["channelData"] == {"additionalAttributes": []}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("outbound", "outbound"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (1.5, "1.5"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        ([], "[]"),
    ],
)
def test_attribute_values_become_text(sent: Any, expected: str) -> None:
    attribute = {"key": "k", "type": "String100", "value": sent, "more": 1}
    wire = accepted(spoilt("header/channelData/additionalAttributes", [attribute])).wire
    assert wire["header"]["channelData"]["additionalAttributes"] == [{**attribute, "value": expected}]


def test_an_attribute_without_a_value_gets_an_empty_one() -> None:
    wire = accepted(spoilt("header/channelData/additionalAttributes", [{"key": "k"}])).wire
    assert wire["header"]["channelData"]["additionalAttributes"] == [{"key": "k", "value": ""}]


@pytest.mark.parametrize("sender_type", ["APP", "IVR", "agent", "SOMETHING_NEW"])
def test_sender_types_and_intents_are_open(sender_type: str) -> None:
    accepted(spoilt("header/sender/type", sender_type))
    accepted(spoilt("header/intent", sender_type))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("header/sender", ..., ("missing_sender", "/header/sender")),
        ("header/sender", None, ("missing_sender", "/header/sender")),
        ("header/sender", "app", ("wrong_type", "/header/sender")),
        ("header/sender/id", ..., ("missing_sender_id", "/header/sender/id")),
        ("header/sender/id", None, ("missing_sender_id", "/header/sender/id")),
        ("header/sender/id", " \t", ("missing_sender_id", "/header/sender/id")),
        ("header/sender/id", 12, ("wrong_type", "/header/sender/id")),
        ("header/sender/type", ..., ("missing_sender_type", "/header/sender/type")),
        ("header/sender/type", None, ("missing_sender_type", "/header/sender/type")),
        ("header/sender/type", True, ("wrong_type", "/header/sender/type")),
        ("header/sender/senderName", 7, ("wrong_type", "/header/sender/senderName")),
        ("header/sender/additionalDetail", "x", ("wrong_type", "/header/sender/additionalDetail")),
        ("body", ..., ("missing_body", "/body")),
        ("body", None, ("missing_body", "/body")),
        ("body", "PLAIN", ("wrong_type", "/body")),
        ("body", [], ("wrong_type", "/body")),
        ("body/type", ..., ("missing_body_type", "/body/type")),
        ("body/type", None, ("missing_body_type", "/body/type")),
        ("body/type", "", ("missing_body_type", "/body/type")),
        ("body/type", " ", ("missing_body_type", "/body/type")),
        ("body/type", 1, ("wrong_type", "/body/type")),
        ("body/type", {}, ("wrong_type", "/body/type")),
        ("body/markdownText", 1, ("wrong_type", "/body/markdownText")),
        ("header", [], ("wrong_type", "/header")),
        ("id", 12, ("wrong_type", "/id")),
        ("header/language", "en", ("wrong_type", "/header/language")),
        ("header/stamps", "x", ("wrong_type", "/header/stamps")),
        ("header/stamps", [1], ("wrong_type", "/header/stamps/0")),
        ("header/intent", 1, ("wrong_type", "/header/intent")),
        ("header/entities", [], ("wrong_type", "/header/entities")),
        ("header/roomId", 1, ("wrong_type", "/header/roomId")),
        ("header/conversationId", 12, ("wrong_type", "/header/conversationId")),
        ("header/channelSessionId", {}, ("wrong_type", "/header/channelSessionId")),
        ("header/customer", "65f0", ("wrong_type", "/header/customer")),
        ("header/customer/_id", 65, ("wrong_type", "/header/customer/_id")),
        ("header/customer/phoneNumber", "+1", ("wrong_type", "/header/customer/phoneNumber")),
        ("header/customer/isAnonymous", "no", ("wrong_type", "/header/customer/isAnonymous")),
        ("header/customer/__v", "0", ("wrong_type", "/header/customer/__v")),
        ("header/schedulingMetaData", "x", ("wrong_type", "/header/schedulingMetaData")),
        ("header/channelData", [], ("wrong_type", "/header/channelData")),
        ("header/channelData/requestPriority", "5", ("wrong_type", "/header/channelData/requestPriority")),
        ("header/channelData/requestPriority", True, ("wrong_type", "/header/channelData/requestPriority")),
        ("header/channelData/serviceIdentifier", 7001, ("wrong_type", "/header/channelData/serviceIdentifier")),
        ("header/channelData/additionalAttributes", {}, ("wrong_type", "/header/channelData/additionalAttributes")),
        (
            "header/channelData/additionalAttributes",
            ["x"],
            ("wrong_type", "/header/channelData/additionalAttributes/0"),
        ),
        (
            "header/channelData/additionalAttributes",
            [None],
            ("wrong_type", "/header/channelData/additionalAttributes/0"),
        ),
        ("header/conversationId", "c" * 243, ("id_too_long", "/header/conversationId")),
        ("header/channelSessionId", "ü" * 122, ("id_too_long", "/header/channelSessionId")),
        ("header/customer/_id", "😀" * 61, ("id_too_long", "/header/customer/_id")),
        ("header/roomId", "r" * 243, ("id_too_long", "/header/roomId")),
    ],
)
def test_each_broken_rule_has_its_code_and_place(path: str, value: Any, expected: tuple[str, str]) -> None:
    assert problems(spoilt(path, value)) == [expected]


@pytest.mark.parametrize("longest", ["c" * 242, "ü" * 121, "é" + "😀" * 60])
def test_an_id_of_242_bytes_fits(longest: str) -> None:
    assert accepted(spoilt("header/conversationId", longest)).conversation_id == longest


def test_without_a_header_both_sender_and_anchor_are_missing() -> None:
    expected = [("missing_sender", "/header/sender"), ("missing_anchor", "/header")]
    assert problems(spoilt("header", ...)) == expected
    assert problems(spoilt("header", None)) == expected


@pytest.mark.parametrize("nothing", [..., None, "", "  "])
@pytest.mark.parametrize("customer", [..., None, {}, {"_id": None}, {"_id": ""}, {"firstName": "Sam"}])
def test_null_and_empty_anchors_are_no_anchor(nothing: Any, customer: Any) -> None:
    message = spoilt("header/conversationId", nothing)
    for key, value in (("channelSessionId", nothing), ("customer", customer)):
        message["header"].pop(key, None)
        if value is not ...:
            message["header"][key] = value
    assert problems(message) == [("missing_anchor", "/header")]


@pytest.mark.parametrize(
    "anchor", [{"conversationId": "c"}, {"channelSessionId": "s"}, {"customer": {"_id": "x"}}], ids=str
)
def test_one_anchor_is_enough(anchor: dict[str, Any]) -> None:
    sender = {"id": "s", "type": "APP"}
    accepted({"header": {"sender": sender, **anchor}, "body": {"type": "ANYTHING"}})


def test_everything_wrong_is_reported_together_in_the_order_of_the_contract() -> None:
    message = {"id": 1, "header": {"sender": {"senderName": 5}, "timestamp": "x"}, "body": {"markdownText": 1}}
    assert problems(message) == [
        ("wrong_type", "/id"),
        ("missing_sender_id", "/header/sender/id"),
        ("missing_sender_type", "/header/sender/type"),
        ("wrong_type", "/header/sender/senderName"),
        ("invalid_timestamp", "/header/timestamp"),
        ("missing_anchor", "/header"),
        ("missing_body_type", "/body/type"),
        ("wrong_type", "/body/markdownText"),
    ]
    assert problems({}) == [
        ("missing_sender", "/header/sender"),
        ("missing_anchor", "/header"),
        ("missing_body", "/body"),
    ]


def test_problems_of_the_bytes_come_before_those_of_the_contract() -> None:
    body = b'{"header":{"sender":{"id":NaN,"senderName":"S"},"conversationId":"c","conversationId":"d"},"id":"m"}'
    assert problems(body) == [
        ("number_not_finite", "/header/sender/id"),
        ("duplicate_key", "/header/conversationId"),
        ("missing_sender_type", "/header/sender/type"),
        ("missing_body", "/body"),
    ]


def test_no_more_than_twenty_problems_are_reported() -> None:
    message = spoilt("body", {"type": "WRAPUP", "wrapups": [{}] * 30})
    assert len(problems(message)) == MAX_PROBLEMS
    assert len(problems(b'{"a":[' + b",".join([b"NaN"] * 30) + b"]}")) == MAX_PROBLEMS


def test_a_rejection_still_tells_who_sent_it() -> None:
    result = judge(spoilt("body", ...))
    assert isinstance(result, Rejected)
    assert result.first == result.problems[0]
    assert (result.identity.sender_id, result.identity.sender_name) == (
        "7c9a0f5e-1111-4a4a-8b8b-2d2d2d2d2d2d",
        "LoanApp",
    )
    assert result.identity.message_id == "00000000-0000-4000-8000-000000000010"
    assert result.identity.conversation_id == "65f0c0ffee0000000000abcd"


def test_a_flawed_document_still_tells_who_sent_it() -> None:
    result = judge(raw("loan_step").replace(b"1200", b"NaN"))
    assert isinstance(result, Rejected)
    assert [problem.pointer for problem in result.problems] == ["/body/amount"]
    assert result.identity.sender_name == "LoanApp"


@pytest.mark.parametrize("name", NAMES)
def test_no_problem_repeats_the_payload(name: str) -> None:
    secret = "hunter2 hunter2"
    message = document(name)
    for key in message["body"]:
        if key != "type":
            message["body"][key] = [secret] if isinstance(message["body"][key], str) else secret
    message["header"]["sender"]["id"] = {"secret": secret}
    message["header"]["timestamp"] = secret
    result = judge(message)
    assert isinstance(result, Rejected)
    for problem in result.problems:
        assert secret not in problem.expected + problem.pointer
        assert problem.expected.endswith(".")


def test_limits_are_arguments() -> None:
    assert problems(raw("loan_step"), max_bytes=100) == [("message_too_large", "")]
    assert problems(raw("loan_step"), max_depth=2) == [("nesting_too_deep", "")]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, member in members for inner in places(member, (*path, key))]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "IMAGE"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_real_messages_always_get_an_answer_and_always_the_same(data: st.DataObject) -> None:
    message = document(data.draw(st.sampled_from(NAMES)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(message) or [("id",)]))
        place: Any = message
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = data.draw(VALUES)
    body = json.dumps(message).encode()
    result = judge(body)
    assert result == judge(body)
    if isinstance(result, CimMessage):
        assert result.wire["body"] == message["body"]
        if abs(result.timestamp) >= SECONDS_BELOW:  # milliseconds near 1970 read as seconds the second time
            again = accepted(result.wire)._replace(
                event_id=result.event_id, size=result.size
            )  # normalised is other content
            assert again == result, "what was accepted once is accepted again, unchanged"
    else:
        assert 1 <= len(result.problems) <= MAX_PROBLEMS


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_real_messages_with_damaged_bytes_never_raise(data: st.DataObject) -> None:
    body = bytearray(raw(data.draw(st.sampled_from(NAMES))))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8))
    judge(bytes(body))
