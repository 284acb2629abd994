"""Only bytes with one possible reading are taken; everything else gets a code and a place."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from tests.support.examples import NAMES, raw
from worker.cim.decode import DEEPEST, Decoded, Undecodable, decode, depth
from worker.cim.flaws import find_flaws
from worker.cim.pointer import MAX_POINTER, pointer
from worker.codes import Code

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def read(body: bytes, **limits: int) -> dict[str, Any]:
    """Return the object in a body that is taken."""
    result = decode(body, **limits)
    assert isinstance(result, Decoded), result
    return result.document


def found(body: bytes, **limits: int) -> list[tuple[str, str]]:
    result = decode(body, **limits)
    assert isinstance(result, Undecodable), "it was decoded"
    return [(str(problem.code), problem.pointer) for problem in result.problems]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", [("malformed_json", "")]),
        (b"   ", [("malformed_json", "")]),
        (b"{", [("malformed_json", "")]),
        (b'{"a":1}x', [("malformed_json", "")]),
        (b'{"a":1,}', [("malformed_json", "")]),
        (b"{'a':1}", [("malformed_json", "")]),
        (b'{"a":01}', [("malformed_json", "")]),
        (b'{"a":+1}', [("malformed_json", "")]),
        (b'{"a":.5}', [("malformed_json", "")]),
        (b'{"a":"\x00"}', [("malformed_json", "")]),
        (b'{"a":"\n"}', [("malformed_json", "")]),
        (b'{"a":"\\x"}', [("malformed_json", "")]),
        (b'{"a":1}\x00', [("malformed_json", "")]),
        ('{"a":1}'.encode("utf-16-le"), [("malformed_json", "")]),
        (b"\xff{}", [("invalid_utf8", "")]),
        (b'{"a":"\xc3"}', [("invalid_utf8", "")]),
        (b'{"a":"\xed\xa0\x80"}', [("invalid_utf8", "")]),
        (b'{"a":"\xc0\x80"}', [("invalid_utf8", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", [("malformed_json", "")]),
        (b"[]", [("not_an_object", "")]),
        (b'"text"', [("not_an_object", "")]),
        (b"null", [("not_an_object", "")]),
        (b"12", [("not_an_object", "")]),
        (b"NaN", [("not_an_object", ""), ("number_not_finite", "")]),
        (b'{"a":1,"a":1}', [("duplicate_key", "/a")]),
        (b'{"a":{"b~/c":1,"b~/c":2}}', [("duplicate_key", "/a/b~0~1c")]),
        (b'{"a":[0,{"":1,"":2}]}', [("duplicate_key", "/a/1/")]),
        (b'{"a":1,"\\u0061":2}', [("duplicate_key", "/a")]),
        (b'{"a":NaN}', [("number_not_finite", "/a")]),
        (b'{"a":[Infinity,-Infinity]}', [("number_not_finite", "/a/0"), ("number_not_finite", "/a/1")]),
        (b'{"a":1e999}', [("number_not_finite", "/a")]),
        (b'{"a":-1.5E+400}', [("number_not_finite", "/a")]),
        (b'{"a":9223372036854775808}', [("integer_out_of_range", "/a")]),
        (b'{"a":-9223372036854775809}', [("integer_out_of_range", "/a")]),
        (b'{"a":' + b"9" * 10_000 + b"}", [("integer_out_of_range", "/a")]),
        (b'{"a":"\\ud800"}', [("invalid_unicode", "/a")]),
        (b'{"a":["\\uDFFF"]}', [("invalid_unicode", "/a/0")]),
        (b'{"a":"\\ude00\\ud83d"}', [("invalid_unicode", "/a")]),
        (b'{"\\ud800":1}', [("invalid_unicode", "/?")]),
        (
            b'{"a":NaN,"a":1,"b":1e999}',
            [("number_not_finite", "/a"), ("duplicate_key", "/a"), ("number_not_finite", "/b")],
        ),
    ],
)
def test_a_body_with_no_single_reading_is_refused_with_code_and_place(
    body: bytes, expected: list[tuple[str, str]]
) -> None:
    assert found(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (b"\xef\xbb\xbf{}", {}),
        (b'\xef\xbb\xbf\n{"a":1.50}', {"a": 1.5}),
        (b' \r\n\t{"a" : 1 }\n', {"a": 1}),
        (b'{"a":9223372036854775807,"b":-9223372036854775808}', {"a": 2**63 - 1, "b": -(2**63)}),
        (b'{"a":1e308,"b":-0.0,"c":1E2}', {"a": 1e308, "b": -0.0, "c": 100.0}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":"\\\\ud800"}', {"a": "\\ud800"}),
        (b'{"a":"NaN","b":"[[["}', {"a": "NaN", "b": "[[["}),
        (b'{"a":"x","b":{"a":"x"}}', {"a": "x", "b": {"a": "x"}}),
    ],
)
def test_unusual_but_correct_json_is_taken(body: bytes, expected: object) -> None:
    assert read(body) == expected


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    body = b'{"a":"' + b"x" * 92 + b'"}'
    assert read(body, max_bytes=len(body)) == {"a": "x" * 92}
    assert found(body, max_bytes=len(body) - 1) == [("message_too_large", "")]


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_sixty_fifth_level_is_too_deep(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    assert read(nested(64))
    assert found(nested(65)) == [("nesting_too_deep", "")]


def test_wide_is_not_deep_and_brackets_in_strings_do_not_count() -> None:
    assert read(b'{"a":[' + b"[]," * 1000 + b"{}]}")
    assert read(b'{"a":"' + b"[{" * 1000 + b'"}')
    assert read(b'{"a":"\\"' + b"[" * 1000 + b'\\\\"}')
    assert found(b'{"a":' + b'["]",' * 70 + b"1" + b"]" * 70 + b"}") == [("nesting_too_deep", "")]


def test_a_megabyte_of_brackets_is_refused_without_exhausting_the_stack() -> None:
    assert found(b"[" * 1_000_000) == [("nesting_too_deep", "")]
    assert found(b'{"a":' * 200_000) == [("nesting_too_deep", "")]


def test_no_limit_allows_more_depth_than_an_event_can_be_written_with() -> None:
    deepest = b'{"a":' + b"[" * (DEEPEST - 1) + b'"\\ud83d\\ude00"' + b"]" * (DEEPEST - 1) + b"}"
    document = read(deepest, max_depth=1_000_000)
    assert to_json({"data": {"data": document}})
    assert found(b'{"a":' + b"[" * 100_000, max_depth=1_000_000) == [("nesting_too_deep", "")]


def test_malformed_json_says_where_but_nothing_of_the_body() -> None:
    result = decode(b'{"secret":\n hunter2}')
    assert isinstance(result, Undecodable)
    assert result.problems[0].expected == "JSON; at line 2, column 2: a value."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id":"x",}', ("a name in double quotes", "no comma after the last one")),
        ("{'id':1}", ("a name in double quotes",)),
        ('{"a":[1,]}', ("a value", "no comma after the last one")),
        ('{"a":tru}', ("a value",)),
        ('{"a" 1}', ("a colon",)),
        ('{"a":1 "b":2}', ("a comma, or the end of the object or array",)),
        ('{"a":1}}', ("nothing after the end",)),
        ('{"a":"b}', ("a string that ends with a double quote",)),
        ('{"a":"b\nc"}', ("no line end, tab or other control character within a string",)),
        (r'{"a":"\q"}', ("one of the escapes that JSON has",)),
        (r'{"a":"\u12"}', ("four hexadecimal digits",)),
    ],
)
def test_what_json_has_instead_is_said_and_nothing_of_the_body(text: str, expected: tuple[str, ...]) -> None:
    result = decode(text.encode())
    assert isinstance(result, Undecodable)
    found = result.problems[0].expected.partition(": ")[2].removesuffix(".")
    assert found in expected, "a newer parser may point at the comma"


def test_a_pointer_never_grows_beyond_its_limit() -> None:
    assert len(pointer(["a" * 200, "b" * 200])) == 201
    assert pointer(["k" * (MAX_POINTER + 1), "b"]) == ""


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_every_json_object_is_decoded_to_what_it_says(value: object) -> None:
    for text in (json.dumps({"value": value}), json.dumps({"value": value}, ensure_ascii=False)):
        assert read(text.encode()) == {"value": value}


@given(st.binary() | st.text(alphabet='{}[]",:\\ud8e0123456789.Na \n').map(str.encode))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_and_the_same_bytes_get_the_same_answer(body: bytes) -> None:
    assert decode(body) == decode(body)


NASTY = (
    "NaN",
    "-Infinity",
    "1e400",
    "1e5",
    "1.0",
    "-0",
    "-0.0",
    "0.1000000000000000055",
    str(2**63 - 1),
    str(2**63),
    '"\\u0041"',
    '"\\u0001"',
    '"\\/"',
    '"\\ud800"',
    '"\x7f"',
    '{"a":1,"a":1}',
    '{"a":1,"a":2}',
    "1 ",
)


@given(JSON, st.lists(st.sampled_from(NASTY), max_size=3))
@settings(max_examples=500, deadline=None)
def test_compact_json_and_the_same_with_a_blank_in_front_say_the_same(value: object, nasty: list[str]) -> None:
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    body = f'{{"value":[{",".join([compact, *nasty])}]}}'.encode("utf-8", "surrogatepass")
    at_once, by_the_standard_library = decode(body), decode(b" " + body)
    if isinstance(at_once, Undecodable):
        assert found(b" " + body) == found(body)
    else:
        assert isinstance(by_the_standard_library, Decoded)
        as_text = repr(by_the_standard_library.document)
        assert repr(at_once.document) == as_text, "1, 1.0 and true are not the same"
        assert at_once.content() == by_the_standard_library.content()


@pytest.mark.parametrize("name", NAMES)
def test_compact_json_is_read_by_the_fast_parser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_long_digits = json.loads(raw(name).replace(b"0" * 9, b""))  # those could hide a large integer
    compact = json.dumps(without_long_digits, separators=(",", ":"), ensure_ascii=False).encode()
    monkeypatch.setattr("worker.cim.decode._DECODER", None)
    assert read(compact) == json.loads(compact)


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_the_depth_of_bytes_is_the_depth_of_the_value(value: object) -> None:
    def levels(inner: object) -> int:
        members = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else None
        return 0 if members is None else 1 + max(map(levels, members), default=0)

    assert depth(json.dumps(value).encode()) == levels(value)


@pytest.mark.parametrize("name", NAMES)
def test_the_slow_path_reads_what_the_fast_one_reads(name: str) -> None:
    assert find_flaws(raw(name).decode()) == (read(raw(name)), [])


def test_later_members_win_in_what_remains_of_a_flawed_document() -> None:
    result = decode(b'{"a":1,"a":{"b":NaN},"c":2}')
    assert isinstance(result, Undecodable)
    assert result.remains == {"a": {"b": None}, "c": 2}
    assert [problem.code for problem in result.problems] == [Code.DUPLICATE_KEY, Code.NUMBER_NOT_FINITE]
