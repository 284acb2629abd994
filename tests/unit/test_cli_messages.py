"""How input is split into messages: every message keeps its own bytes."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.findings import Format, print_document, print_github, print_text, rows
from worker.cli.messages import read_messages, split_messages
from worker.cli.output import print_json, print_json_with, print_table
from worker.cli.publish_state import PublishState
from worker.cli.validate import judge

if TYPE_CHECKING:
    from collections.abc import Callable
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
        pytest.param(b'{"a":1}{"b":', [(1, b'{"a":1}'), (2, b'{"b":')], id="objects in a row, the last cut off"),
        pytest.param(b'{\n"a":1}\n{\n"b":', [(1, b'{\n"a":1}'), (2, b'{\n"b":')], id="as jq prints, cut off"),
        pytest.param(b'{"a":1}\n{"b":', [(1, b'{"a":1}'), (2, b'{"b":')], id="JSON lines, the last cut off"),
        pytest.param(b'{"a":1\n{"b":2}\n', [(1, b'{"a":1'), (2, b'{"b":2}')], id="JSON lines, one cut off"),
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


FORMS: dict[str, Callable[[list[str]], str]] = {
    "an array": lambda texts: f"[{','.join(texts)}]",
    "an array over many lines": lambda texts: "[\n" + ",\n".join(texts) + "\n]\n",
    "JSON lines": "\n".join,
    "texts in a row": "".join,
    "lines of which one is bad": lambda texts: "\n".join(["bad", *texts]),
    "an array that does not end": lambda texts: f"[{','.join(texts)}",
}
SHOWN: dict[Format, Callable[..., None]] = {
    Format.TEXT: print_text,
    Format.TABLE: lambda judged: print_table(None, ("file",), (row for one in judged for row in rows(one))),
    Format.GITHUB: lambda judged: print_github(judged, strict=False),
    Format.JSON: lambda judged: print_document(judged, {}, strict=False),
}
FEW, MANY = 400, 8000
MOST_GROWTH = 3
"""Of the processor time a message takes, between few and many; what looks at all of them for each grows twentyfold."""


@pytest.mark.parametrize("form", FORMS)
def test_a_message_among_many_is_read_in_the_same_time_as_among_few(form: str, tmp_path: Path) -> None:
    def read(count: int) -> None:
        read_messages([str(file_of(count))], "validate")

    def file_of(count: int) -> Path:
        file = tmp_path / f"{count}"
        if not file.exists():
            file.write_text(
                FORMS[form]([json.dumps({"id": f"m-{n}", "body": {"type": "X" * 300}}) for n in range(count)])
            )
        return file

    assert growth(read) < MOST_GROWTH


@pytest.mark.parametrize("form", Format)
def test_a_message_among_many_is_reported_in_the_same_time_as_among_few(
    form: Format, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([{"id": f"m-{n}", "header": {}, "body": {}} for n in range(MANY // 4)]))
    judged = judge(read_messages([str(file)], "validate"), 1 << 20)

    def report(count: int) -> None:
        SHOWN[form](judged[:count])
        capsys.readouterr()

    assert growth(report, FEW // 4, MANY // 4) < MOST_GROWTH


def test_what_a_window_confirmed_is_kept_in_the_same_time_among_many_messages_as_among_few(tmp_path: Path) -> None:
    def publish(count: int) -> None:
        state = PublishState.read(str(tmp_path / f"{count}.{time.monotonic_ns()}"), [b""] * count)
        for start in range(0, count, 100):
            state.note(range(start, start + 100))

    assert growth(publish, 2000, 100_000) < MOST_GROWTH


@given(st.integers(1, 40), st.lists(st.sets(st.integers(0, 45), max_size=8), max_size=8))
def test_a_later_run_publishes_exactly_what_was_not_confirmed(
    tmp_path_factory: pytest.TempPathFactory, total: int, windows: list[set[int]]
) -> None:
    file, bodies = tmp_path_factory.mktemp("state") / "done.json", [b"x"] * total
    state = PublishState.read(str(file), bodies)
    for window in windows:
        state.note(window)

    assert PublishState.read(str(file), bodies).left == sorted(set(range(total)).difference(*windows))


@given(st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=2), st.lists(JSON_VALUES, max_size=3))
def test_a_list_printed_item_by_item_is_the_same_text(members: dict[str, object], items: list[object]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        one, other = io.StringIO(), io.StringIO()
        patched.setattr("sys.stdout", one)
        print_json({**members, "messages": items})
        patched.setattr("sys.stdout", other)
        print_json_with(members, "messages", items)

    assert other.getvalue() == one.getvalue()


def growth(do: Callable[[int], None], few: int = FEW, many: int = MANY) -> float:
    """Return the processor time of `do(many)`, for each, in that of `do(few)`; of each the least of three."""

    def least(count: int) -> float:
        times = []
        for _ in range(3):
            begin = time.process_time()
            do(count)
            times.append(time.process_time() - begin)
        return min(times) / count

    return least(many) / least(few)
