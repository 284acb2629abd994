"""Both forms of the first look at a body give the same answers, and say nothing of what a slower path has to judge."""

from __future__ import annotations

import contextlib
import json
import random
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import shapes
from tests.support.examples import NAMES, raw
from worker import compiled
from worker.cim import scan
from worker.cim.canonical import write_canonical
from worker.cim.decode import Decoded, decode

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS: dict[str, Callable[[bytes, int], Any]] = {"pure": scan.scan_purely}
if compiled.scan is not None:
    FORMS["compiled"] = compiled.scan.scan

EDGES = [
    *(b"", b"{", b"{}", b"[]", b'{"a":1}x', b'{"a":1,}', b'{"a"}', b'{"a":1 }', b'{"a": 1}', b'{"a":01}', b'{"a":-0}'),
    *(b'{"a":-}', b'{"a":+1}', b'{"a":1.0}', b'{"a":1e3}', b'{"a":1E3}', b'{"a":1.50}', b'{"a":NaN}', b'{"a":nul}'),
    *(b'{"a":9223372036854775807}', b'{"a":9223372036854775808}', b'{"a":-9223372036854775809}', b'{"a":"\\/"}'),
    *(
        b'{"a":"\\u0041"}',
        b'{"a":"\\u001F"}',
        b'{"a":"\\u001f"}',
        b'{"a":"\\u0008"}',
        b'{"a":"\\b\\f\\n\\r\\t\\"\\\\"}',
    ),
    *(b'{"a":"\\ud83d"}', b'{"a":"\\x"}', b'{"a":"\\', b'{"a":"', b'{"a":"\n"}', b'{"a":"\x7f"}', b'{"a":"\xff"}'),
    *(
        b'{"a":"\xed\xa0\x80"}',
        '{"ä":"€","z":"😀"}'.encode(),
        b'{"a":1,"a":2}',
        b'{"a":1,"b":2,"a":3}',
        b'{"b":1,"a":2}',
    ),
    *(
        b'{"":1," ":2}',
        b'{"a\\n":1}',
        b'{"aa":1,"a":2,"ab":3}',
        b'{"a":{"c":1,"b":[{"z":1,"y":2}]}}',
        b"\xef\xbb\xbf{}",
    ),
    *(b'{"a":' + b"[" * 62 + b"]" * 62 + b"}", b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", b'{"a":true,"b":false}'),
]
WHOLE = b'{"header":{"sender":{"id":"s"}},"body":{"type":"PLAIN"},"x":%b}'


def agree(body: bytes) -> None:
    """Hold what a form says to what the slow path reads."""
    for name, form in FORMS.items():
        said = form(body, 64)
        if said is None:
            continue
        read = decode(body)
        assert isinstance(read, Decoded), name
        content, sender, body_type, *_ = said
        assert content == write_canonical(read.document) == read.content(), name
        assert orjson.dumps(read.document) == body, name
        assert (sender, body_type) == (part(read.document, "header", "sender"), part(read.document, "body", "type")), (
            name
        )


def part(document: dict[str, Any], parent: str, member: str) -> bytes | None:
    inner = document.get(parent)
    return orjson.dumps(inner[member]) if isinstance(inner, dict) and member in inner else None


@pytest.mark.parametrize("edge", EDGES)
def test_what_is_at_the_edge_of_json_is_taken_by_neither_or_read_alike(edge: bytes) -> None:
    agree(edge)
    agree(WHOLE % edge)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "survey_form_data"])
@pytest.mark.parametrize("form", FORMS)
def test_a_compact_example_is_taken(name: str, form: str) -> None:
    # Floating-point numbers are left to the pure form.
    document = json.loads(raw(name), parse_float=lambda text: int(float(text)))
    body = orjson.dumps(document)
    said = FORMS[form](body, 64)
    assert said is not None
    assert said[0] == write_canonical(document)


@given(shapes.messages())
@settings(max_examples=1000, deadline=None)
def test_whatever_comes_they_say_what_the_slow_path_reads(body: bytes) -> None:
    agree(body)
    with contextlib.suppress(orjson.JSONDecodeError):
        agree(orjson.dumps(orjson.loads(body)))


@given(st.binary(max_size=40))
@settings(max_examples=500, deadline=None)
def test_raw_bytes_are_no_danger(noise: bytes) -> None:
    agree(noise)
    agree(WHOLE % noise)
    agree((WHOLE % b"1")[: len(noise)] + noise)


def test_members_by_the_thousand_in_no_order_take_no_time() -> None:
    keys = [f"k{number:05}" for number in range(3000, 0, -1)]
    random.Random(1).shuffle(keys)
    wide = orjson.dumps(dict.fromkeys(keys, 1))
    body = WHOLE % (b"[" + b",".join([wide] * 25) + b"]")
    started = time.process_time()
    agree(body)
    assert time.process_time() - started < 3, "a megabyte"
