"""Where in a text a problem is, and what is found there; and how that line is drawn, without any value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import RECEIVED_AT
from worker.cim import Rejected, parse
from worker.cim.locate import MessageText
from worker.cim.pointer import pointer
from worker.cli.excerpt import excerpt
from worker.codes import Code

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
TEXT = """{
  "id": 5,
  "header": {
    "sender": {"id": "s-1", "type": "APP"}, "customer": "Sam",
    "timestamp": "2025/10/09 08:00"
  },
  "body": {"type": "WRAPUP", "wrapups": [{"categoryName": "c"}]}
}"""


def found_in(text: str) -> dict[str, tuple[int, int, str]]:
    verdict = parse(text.encode(), received_at=RECEIVED_AT)
    assert isinstance(verdict, Rejected)
    places = MessageText(text.encode())
    found = {one.pointer: places.place_of(one.code, one.pointer) for one in verdict.problems}
    return {pointer: (one.line, one.column, one.found) for pointer, one in found.items()}


def test_each_problem_of_a_message_is_at_its_line_and_column() -> None:
    assert found_in(TEXT) == {
        "/id": (2, 9, "an integer"),
        "/header/customer": (4, 57, "a string"),
        "/header/timestamp": (5, 18, "a string of the form 9999/99/99 99:99"),
        "/body/wrapups/0/value": (7, 42, "nothing"),
    }


@pytest.mark.parametrize("around", ["message", "data"])
def test_a_message_that_is_wrapped_in_something_is_found_there(around: str) -> None:
    found = found_in(json.dumps({"id": "1", "name": "X", around: json.loads(TEXT)}))
    assert {one for _, _, one in found.values()} == {f"nothing; the object at /{around} looks like the message"}


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"conversationId": "c-1"}, "; /conversationId is outside the header, where it is not read"),
        ({"body": {"type": "X", "customer": {}}}, "; /body/customer is outside the header, where it is not read"),
        ({}, ""),
    ],
)
def test_an_anchor_outside_the_header_is_told_with_the_one_that_is_missing(more: dict[str, Any], where: str) -> None:
    message = {"header": {"sender": {"id": "a", "type": "APP"}}, "body": {"type": "X"}, **more}
    assert [one for _, _, one in found_in(json.dumps(message)).values()] == [f"none of the three{where}"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (TEXT.encode("utf-16"), "the byte 0xFF, as UTF-16 begins"),
        (b"\x1f\x8b\x08\x00", "the byte 0x8B, as gzip begins"),
        ('{"a": "é"}'.encode("latin-1"), "the byte 0xE9"),
    ],
)
def test_a_file_that_is_something_else_is_told_by_its_first_bytes(body: bytes, found: str) -> None:
    assert MessageText(body).place_of(Code.INVALID_UTF8, "").found == found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1,}', (1, 9, "a closing brace")),
        ('{"a": [1 , ]}', (1, 12, "a closing bracket")),
        ("{\n 'a': 1}", (2, 2, "a single quote")),
        ('{"a": undefined}', (1, 7, "a letter")),
        ('{"a": 1', (1, 8, "the end of the text")),
        ('{"a": 1 // no\n}', (1, 9, "a slash; JSON has no comments")),
        ('{"a": 1\n\n', (1, 8, "the end of the text")),
        ("[1]", (1, 1, "an array")),
        (json.dumps(TEXT), (1, 1, "a string that holds JSON, as after encoding it twice")),
        ("[]", (1, 1, "an empty array")),
        ("3", (1, 1, "an integer")),
    ],
)
def test_what_is_no_json_object_is_shown_where_reading_ended(text: str, place: tuple[int, int, str]) -> None:
    assert found_in(text) == {"": place}


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ('"a": 1, "a": 2', ("/a", (1, 10, "the key again"))),
        ('"a": 1e999', ("/a", (1, 7, "a number"))),
        ('"a": [12345678901234567890]', ("/a/0", (1, 8, "an integer of 20 digits"))),
        ('"a": NaN', ("/a", (1, 7, "something that is no JSON value"))),
        ('"a/b~": "\\ud800"', ("/a~1b~0", (1, 10, "half of a surrogate pair"))),
    ],
)
def test_flaws_of_the_text_are_shown_where_they_are(members: str, place: tuple[str, tuple[int, int, str]]) -> None:
    where, expected = place
    assert found_in("{" + members + "}")[where] == expected


@pytest.mark.parametrize(
    ("header", "pointer", "found"),
    [
        ('"conversationId": "' + "x" * 243 + '"', "/header/conversationId", "a string of 243 bytes"),
        ('"conversationId": "a\\nb"', "/header/conversationId", "a string with U+000A"),
        ('"conversationId": ""', "/header", "none of the three"),
        ('"customer": {"_id": null}', "/header", "none of the three"),
        ('"conversationId": {"a": 1}', "/header/conversationId", "an object"),
        ('"conversationId": false', "/header/conversationId", "false"),
        ('"channelData": []', "/header/channelData", "an empty array"),
    ],
)
def test_what_is_found_is_a_type_or_a_shape(header: str, pointer: str, found: str) -> None:
    text = '{"header": {"sender": {"id": "s", "type": "APP"}, ' + header + '}, "body": {"type": "ANY"}}'
    assert found_in(text)[pointer][2] == found


def test_bytes_that_are_no_utf_8_and_bodies_that_are_too_large_or_too_deep() -> None:
    broken = '{"ä": "'.encode() + b'\xe4"}'
    assert MessageText(broken).place_of(Code.INVALID_UTF8, "")[2:] == (1, 8, "the byte 0xE4")
    assert MessageText(b"{}").place_of(Code.MESSAGE_TOO_LARGE, "").found == "2 bytes"
    deep = MessageText(b'{"a":\n [[]]}').place_of(Code.NESTING_TOO_DEEP, "")
    assert deep[2:] == (2, 3, "3 levels")


@given(JSON_VALUES, st.sampled_from([None, 1]))
def test_every_value_of_a_document_is_found_at_its_pointer(value: Any, indent: int | None) -> None:
    text = json.dumps({"": value}, indent=indent)
    places = MessageText(text.encode())
    for path, inner in walk({"": value}):
        place = places.place_of(Code.WRONG_TYPE, pointer(path))
        shown = text[place.start :]
        assert json.JSONDecoder().raw_decode(shown)[0] == inner
        before = text[: place.start]
        assert (place.line, place.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


@given(st.binary(max_size=60), st.sampled_from(list(Code)), st.text(max_size=8))
def test_any_bytes_and_any_pointer_have_a_place(body: bytes, code: Code, path: str) -> None:
    places = MessageText(body)
    place = places.place_of(code, f"/{path}")
    assert 0 <= place.start <= len(places.text)
    assert len(excerpt(places.text, place, width=40)) == 2


def test_the_line_is_drawn_with_a_caret_and_without_values() -> None:
    text = '{\n\t"secret key": "secret", "n": 42, "t": true, "z": null, "e": "", "bad": {"x": "secret"}}'
    place = MessageText(text.encode()).place_of(Code.WRONG_TYPE, "/bad")
    assert excerpt(text, place, first_line=9) == [
        '10 |  "secret key": "…", "n": …, "t": …, "z": null, "e": "", "bad": {"x": "…"}}',
        "   |                                                                ^",
    ]


def test_a_long_line_is_cut_around_the_caret() -> None:
    text = json.dumps({**{f"key{number}": "x" * 50 for number in range(40)}, "bad": 1, **dict.fromkeys("abcdefgh", 2)})
    place = MessageText(text.encode()).place_of(Code.WRONG_TYPE, "/bad")
    line, caret = excerpt(text, place, width=60)
    assert len(line) <= 60
    assert line.startswith("1 | …")
    assert line[: caret.index("^")].endswith('"bad": ')


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 50))
def test_no_value_of_a_text_is_drawn(secret: str, width: int) -> None:
    text = json.dumps({"key": f"<{secret}>", "other": [f"<{secret}>"]})
    place = MessageText(text.encode()).place_of(Code.WRONG_TYPE, "/other/0")
    assert "<" not in "".join(excerpt(text, place, width=60 + width))


def walk(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(path, value)]
    for key, inner in members:
        found += walk(inner, (*path, key))
    return found
