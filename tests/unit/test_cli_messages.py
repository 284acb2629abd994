"""How input is split into messages: every message keeps its own bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.messages import read_messages, split_messages

if TYPE_CHECKING:
    from pathlib import Path

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b'{"a": 1}\n', [(1, b'{"a": 1}\n')], id="one object keeps its line end"),
        pytest.param(b'{\n  "a": {}\n}', [(1, b'{\n  "a": {}\n}')], id="one object on several lines"),
        pytest.param(b"", [], id="an empty file"),
        pytest.param(b" \r\n\n", [], id="blank lines"),
        pytest.param(b"\xef\xbb\xbf", [], id="a byte order mark alone"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', [(1, b'{"a":1}')], id="a byte order mark before a message"),
        pytest.param(b'\xef\xbb\xbf[{"a":1}]', [(1, b'{"a":1}')], id="a byte order mark before an array"),
        pytest.param(b"nonsense", [(1, b"nonsense")], id="no JSON at all"),
        pytest.param(b" [ ]\n", [], id="an empty array"),
        pytest.param(b"[", [(1, b"[")], id="an array that does not even begin"),
        pytest.param(b'[{"a":1}, {"b":2}]', [(1, b'{"a":1}'), (2, b'{"b":2}')], id="an array"),
        pytest.param(b'[{"a":"],[{\\"}"}, 5]', [(1, b'{"a":"],[{\\"}"}'), (2, b"5")], id="brackets inside strings"),
        pytest.param(b'[{"a":NaN}, bad]', [(1, b'{"a":NaN}'), (2, b"bad")], id="bad elements stay alone"),
        pytest.param(b'[{"a":1}', [(1, b'[{"a":1}')], id="an array that does not end"),
        pytest.param(b'[{"a":1}] x', [(1, b'[{"a":1}] x')], id="an array with something behind it"),
        pytest.param(b'{"a":1}\r\n{"b":2}\n', [(1, b'{"a":1}'), (2, b'{"b":2}')], id="JSON lines"),
        pytest.param(b'\n{"a":1}\n\nbad\n', [(2, b'{"a":1}'), (4, b"bad")], id="JSON lines with gaps and a bad one"),
        pytest.param(b'{"a":1}\n{"\xff":2}', [(1, b'{"a":1}'), (2, b'{"\xff":2}')], id="lines that are not UTF-8"),
        pytest.param(b'{"a":1}{"b":2}', [(1, b'{"a":1}'), (2, b'{"b":2}')], id="objects in a row"),
        pytest.param(b'{"a":1} {"b":\n2}\n', [(1, b'{"a":1}'), (2, b'{"b":\n2}')], id="objects across lines"),
        pytest.param(
            b'{\n"a":[\n{"b":1}\n]}\n{\n}\n', [(1, b'{\n"a":[\n{"b":1}\n]}'), (2, b"{\n}")], id="as jq prints"
        ),
        pytest.param(b'\x1e{"a":1}\n\x1e{"b":2}\n', [(1, b'{"a":1}'), (2, b'{"b":2}')], id="record separators"),
        pytest.param(b'{"a":1}\x1ex{"b":2}', [(1, b'{"a":1}\x1ex{"b":2}')], id="something between objects"),
        pytest.param(
            b'{"a":[\n  {"b":1}\n}', [(1, b'{"a":[\n  {"b":1}\n}')], id="one broken object with an inner line"
        ),
        pytest.param(b'{"a":1,\n"b":', [(1, b'{"a":1,\n"b":')], id="one object cut off"),
    ],
)
def test_messages_are_found(content: bytes, expected: list[tuple[int, bytes]]) -> None:
    assert split_messages(content) == expected


@given(st.lists(JSON_VALUES, min_size=1), st.sampled_from([None, 2]))
def test_the_elements_of_an_array_are_the_ones_that_were_written(values: list[object], indent: int | None) -> None:
    content = json.dumps(values, indent=indent).encode()

    assert [json.loads(body) for _, body in split_messages(content)] == values


@given(st.lists(OBJECTS, min_size=2, max_size=4))
def test_json_lines_are_the_ones_that_were_written(values: list[object]) -> None:
    lines = [json.dumps(value).encode() for value in values]

    assert split_messages(b"\n".join(lines)) == list(enumerate(lines, 1))


@given(st.lists(OBJECTS, min_size=2, max_size=4), st.sampled_from(["", " ", "\n", "\n\n"]))
def test_json_texts_in_a_row_are_the_ones_that_were_written(values: list[object], between: str) -> None:
    content = between.join(json.dumps(value, indent=1) for value in values).encode()

    assert [json.loads(body) for _, body in split_messages(content)] == values


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (b'\xef\xbb\xbf{"a":1}', [(1, 1)]),
        (b'{"a":1}\n\n{"b":2}\n', [(1, 1), (3, 1)]),
        ('[{"ä":1},\n  {"b":2}, {"c":3}]'.encode(), [(1, 2), (2, 3), (2, 12)]),
        ('{"ä":1} {"b":2}\n{"c":\n3}{}'.encode(), [(1, 1), (1, 9), (2, 1), (3, 3)]),
    ],
)
def test_every_message_knows_where_in_its_file_it_begins(
    content: bytes, places: list[tuple[int, int]], tmp_path: Path
) -> None:
    file = tmp_path / "messages"
    file.write_bytes(content)

    assert [(one.line, one.column) for one in read_messages([str(file)], "validate")] == places


@given(st.binary().filter(lambda content: content.strip().strip(b"[]").strip()))
def test_any_bytes_that_are_not_blank_give_at_least_one_message(content: bytes) -> None:
    assert split_messages(content) or content.startswith(b"\xef\xbb\xbf")
