"""Warnings: what is probably a mistake is told to people who check a message, and rejects nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import NAMES, RECEIVED_AT, accepted, document, encode, raw, spoilt
from worker.cim.warnings import MAX_WARNINGS, find_warnings
from worker.codes import WarningCode

CASES = sorted((Path(__file__).parents[1] / "cases").glob("*.json"))
DAY_MS = 24 * 3600 * 1000
IN_SECONDS = [("time_in_seconds", "/header/timestamp")]


def warned(message: Any, received_at: int = RECEIVED_AT) -> list[tuple[str, str]]:
    body = message if isinstance(message, bytes) else encode(message)
    return [(one.code.value, one.pointer) for one in find_warnings(body, received_at=received_at, max_bytes=1_048_576)]


@pytest.mark.parametrize("name", NAMES)
def test_no_example_has_a_warning_but_the_one_that_is_in_seconds(name: str) -> None:
    assert warned(raw(name)) == (IN_SECONDS if name == "timestamp_in_seconds" else [])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_no_real_shape_has_a_warning_but_the_platforms_own_sample_in_seconds(case: Path) -> None:
    expected = IN_SECONDS if case.stem == "24_recording_as_url_2023_intent" else []
    assert warned(case.read_bytes(), received_at=1_800_000_000_000) == expected


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("header/conversation_id", "c", "/header/conversation_id"),
        ("header/channelsessionid", "s", "/header/channelsessionid"),
        ("header/room-id", "r", "/header/room-id"),
        ("header/sender/sender_name", "x", "/header/sender/sender_name"),
        ("header/customer/id", "x", "/header/customer/id"),
        ("header/channelData/additional_attributes", [], "/header/channelData/additional_attributes"),
    ],
)
def test_a_known_field_in_another_spelling_is_not_read(path: str, value: Any, place: str) -> None:
    message = document()
    message["header"] = {"sender": {"id": "s", "type": "APP"}, "customer": {"firstName": "Sam"}, "channelData": {}}
    *parents, last = path.split("/")
    inner = message
    for part in parents:
        inner = inner[part]
    inner[last] = value
    assert warned(message) == [("misspelt_field", place)], "told although, or because, the message is rejected"


def test_a_field_of_a_known_body_in_another_spelling_is_not_read() -> None:
    message = spoilt("body", {"type": "VOICE_RECORDING", "media_url": "https://x.example.org"})
    assert warned(message) == [("misspelt_field", "/body/media_url")]
    accepted(message)


def test_another_spelling_beside_the_right_one_is_somebodys_own_field() -> None:
    message = document()
    message["header"]["conversation_id"] = "theirs"
    assert warned(message) == []


@pytest.mark.parametrize(
    ("body_type", "meant"),
    [
        ("image", "IMAGE"),
        ("FORMDATA", "FORM_DATA"),
        ("Delivery-Notification", "DELIVERYNOTIFICATION"),
        ("WRAPUPS", "WRAPUP"),
    ],
)
def test_a_body_type_that_is_nearly_a_known_one(body_type: str, meant: str) -> None:
    message = spoilt("body", {"type": body_type})
    (warning,) = find_warnings(encode(message), received_at=RECEIVED_AT, max_bytes=10_000)
    assert (warning.code, warning.pointer) == (WarningCode.MISSPELT_BODY_TYPE, "/body/type")
    assert warning.did_you_mean == meant
    assert warning.expected.startswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    "body_type", ["FNB", "LOAN_STEP", "WIDGET_FORM", "CALL_PROGRESS_EVENT", "VOICE_ACTIVITY", "😀"]
)
def test_an_open_body_type_is_no_mistake(body_type: str) -> None:
    assert warned(spoilt("body", {"type": body_type})) == []


@pytest.mark.parametrize(
    ("timestamp", "doubtful"),
    [
        (RECEIVED_AT + DAY_MS, False),
        (RECEIVED_AT + DAY_MS + 1, True),
        ("2026-11-25T00:00:00Z", True),
        ("20251009", True),
        (RECEIVED_AT, False),
        ("", False),
        (None, False),
    ],
)
def test_a_time_that_cannot_be_meant(timestamp: Any, doubtful: bool) -> None:  # noqa: FBT001 - what is expected
    expected = [("implausible_time", "/header/timestamp")] if doubtful else []
    assert warned(spoilt("header/timestamp", timestamp)) == expected


@pytest.mark.parametrize("timestamp", [1_760_000_111, "1760000111", 1_760_000_111.5])
def test_seconds_where_milliseconds_are_meant(timestamp: Any) -> None:
    assert warned(spoilt("header/timestamp", timestamp)) == IN_SECONDS


def test_nobody_converts_seconds_in_a_body() -> None:
    step = {"menu": "m", "timestamp": 1_760_000_111}
    body = {"type": "IVR_AGGREGATED_ACTIVITY", "startDirection": "INBOUND", "startTime": 1_760_000_111}
    message = spoilt("body", {**body, "endTime": 1_760_000_111_222, "activities": [step]})

    assert warned(message) == [
        ("time_in_seconds", "/body/startTime"),
        ("time_in_seconds", "/body/activities/0/timestamp"),
    ]


@pytest.mark.parametrize(
    ("path", "slip", "meant"),
    [
        ("header", "conversatoinId", "conversationId"),
        ("header", "chanelSesionId", "channelSessionId"),
        ("header/sender", "senderNmae", "senderName"),
        ("header/channelData", "serviceIdentifer", "serviceIdentifier"),
        ("body", "markdownTxt", "markdownText"),
    ],
)
def test_a_slip_in_the_name_of_a_field_is_met_with_a_question(path: str, slip: str, meant: str) -> None:
    message: Any = {
        "header": {"sender": {"id": "s", "type": "APP"}, "channelData": {}, "customer": {"_id": "u"}},
        "body": {"type": "ANY"},
    }
    place = message
    for part in path.split("/"):
        place = place[part]
    place[slip] = "x"
    (warning,) = find_warnings(encode(message), received_at=RECEIVED_AT, max_bytes=10_000)

    assert (warning.pointer, warning.did_you_mean) == (f"/{path}/{slip}", meant)


@pytest.mark.parametrize("name", ["channelSession", "customers", "stampede", "notes", "seenStatuses", "Type2"])
def test_a_name_of_somebodys_own_is_no_slip(name: str) -> None:
    message = document()
    message["header"][name] = "x"
    message["body"][name] = "x"
    message["header"]["customer"] = {"_id": "u", "firstNames": "x", "phone": "y"}
    assert warned(message) == []


def test_a_slip_inside_a_part_of_a_body_is_found() -> None:
    body = {"type": "WRAPUP", "wrapups": [{"categoryName": "c", "value": "v"}, {"categoryNam": "c", "value": "v"}]}
    assert warned(spoilt("body", body)) == [("misspelt_field", "/body/wrapups/1/categoryNam")]


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [("header/sender/type", "app", "APP"), ("header/sender/type", "robot", None), ("body/type", "loan_step", None)],
)
def test_types_are_written_in_capital_letters(path: str, value: str, meant: str | None) -> None:
    (warning,) = find_warnings(encode(spoilt(path, value)), received_at=RECEIVED_AT, max_bytes=10_000)

    assert (warning.code, warning.pointer) == (WarningCode.LOWER_CASE_TYPE, f"/{path}")
    assert warning.did_you_mean == meant


@pytest.mark.parametrize("path", ["id", "header/sender/id", "header/conversationId"])
@pytest.mark.parametrize("value", ["sam.doe+x@mail.example.org", "+49 170 1234567", "tel:+15550100200"])
def test_a_person_is_recognised_in_an_id_that_reaches_the_logs(path: str, value: str) -> None:
    assert warned(spoilt(path, value)) == [("personal_data", f"/{path}")]


@pytest.mark.parametrize(
    "value",
    [
        "65f0c0ffee0000000000abcd",
        "b1d0c6f2-52b1-4f0e-9a61-0f3a5d1c7e10",
        "491701234567",
        "a84b4c76e66710@pc33.example.org",
        "room@4",
        "1760000000123",
    ],
)
def test_an_id_that_says_nothing_about_a_person(value: str) -> None:
    assert warned(spoilt("id", value)) == []


def test_where_no_log_looks_a_person_may_be_named() -> None:
    message = document()
    message["header"]["customer"] = {"_id": "u", "phoneNumber": ["+49 170 1234567"]}
    message["body"] = {"type": "ANY", "mail": "sam@example.org"}
    assert warned(message) == []


@pytest.mark.parametrize("path", ["id", "header/sender/id", "header/conversationId", "header/customer/_id"])
def test_blanks_around_an_id_make_it_another_one(path: str) -> None:
    message = document()
    message["header"]["customer"] = {}
    *parents, last = path.split("/")
    place = message
    for part in parents:
        place = place[part]
    place[last] = " x-1"
    assert warned(message) == [("blanks_around_id", f"/{path}")]


@pytest.mark.parametrize("value", ["undefined", "NULL", "None", "[object Object]", "{{conversationId}}", "${id}", "%s"])
@pytest.mark.parametrize("path", ["id", "header/conversationId"])
def test_an_id_that_stands_where_a_variable_was_never_set(path: str, value: str) -> None:
    assert ("placeholder_id", f"/{path}") in warned(spoilt(path, value))


@pytest.mark.parametrize("value", ["nullable", "none-such", "c-{1}", "<a@b>", "{65f0c0ff-ee00-4000-8000-000000000000}"])
def test_an_id_that_only_looks_a_little_like_that_is_none(value: str) -> None:
    assert warned(spoilt("id", value)) == []


@pytest.mark.parametrize(
    ("number", "inexact"),
    [
        ("9007199254740993.0", True),
        ("12345678901234567.89", True),
        ("9007199254740993", True),
        ("1e-400", True),
        ("9007199254740992", False),
        ("9007199254740994", False),
        ("0.1", False),
        ("1.50", False),
        ("1e3", False),
        ("-0.0", False),
    ],
)
def test_a_number_that_readers_get_changed(number: str, inexact: bool) -> None:  # noqa: FBT001 - what is expected
    body = encode(spoilt("body/amount", "NUMBER")).replace(b'"NUMBER"', number.encode())
    assert warned(body) == ([("inexact_number", "/body/amount")] if inexact else [])


def test_there_is_an_end_to_warnings_and_none_where_nothing_can_be_read() -> None:
    many = encode(spoilt("body/amount", "NUMBER")).replace(b'"NUMBER"', b"[" + b",".join([b"1e-999"] * 50) + b"]")
    assert len(warned(many)) == MAX_WARNINGS
    assert warned(b"{") == []
    assert warned(b"\xff") == []
    assert warned(b"[]") == []


@given(st.recursive(st.none() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_no_document_raises(value: Any) -> None:
    for part in ("header", "body", "id"):
        warned({"header": {}, "body": {"type": "PLAIN"}, part: value})
