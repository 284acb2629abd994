"""A hostile megabyte costs no more than an answer: time and memory stay bounded."""

import json
import time
import tracemalloc

import pytest

from tests.support.examples import judge, problems, spoilt
from worker.cim import Rejected
from worker.cim.validator import ENTRIES_LISTED

MEGABYTE = 1_000_000


def message(body: str, header: str = "") -> str:
    return '{"header":{"sender":{"id":"s","type":"t"},"conversationId":"c"' + header + '},"body":' + body + "}"


HOSTILE = {
    "bad entries": message('{"type":"WRAPUP","wrapups":[' + "{}," * (MEGABYTE // 3) + "{}]}"),
    "bad entries behind good ones": message(
        '{"type":"WRAPUP","wrapups":['
        + '{"categoryName":"a","value":"b"},' * (MEGABYTE // 64)
        + "{}," * (MEGABYTE // 8)
        + "{}]}"
    ),
    "bad scalars": message('{"type":"PLAIN"}', ',"stamps":[' + "1," * (MEGABYTE // 2) + "1]"),
    "repeated keys": "{" + '"a":1,' * (MEGABYTE // 6) + '"a":1}',
    "numbers that are none": '{"a":[' + "NaN," * (MEGABYTE // 4) + "1]}",
    "digits": '{"a":' + "9" * MEGABYTE + "}",
    "escapes in an endless string": '{"a":' + "[" * 70 + '"' + "\\a" * (MEGABYTE // 2),
    "a wide document": '{"a":[' + "[]," * (MEGABYTE // 3) + "[]]}",
    "an endless timestamp": message('{"type":"PLAIN"}', ',"timestamp":"' + "1" * MEGABYTE + '"'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_megabyte_is_refused_before_long(name: str) -> None:
    body = HOSTILE[name].encode()
    begun = time.process_time()
    result = judge(body)
    assert isinstance(result, Rejected)
    assert time.process_time() - begun < 3, "measured 0.01 to 0.4 s of processor time; seconds would stall heartbeats"


def test_the_list_of_errors_does_not_grow_with_the_input() -> None:
    body = HOSTILE["bad entries"].encode()
    wrapups = json.loads(body)["body"]["wrapups"]
    tracemalloc.start()
    judge(json.dumps(spoilt("body", {"type": "WRAPUP", "wrapups": wrapups[:50_000]})).encode())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * MEGABYTE, "the parsed document takes a third of it; listing every error took 120 MB"


def test_bad_entries_are_found_wherever_they_are_and_by_their_own_index() -> None:
    good = {"categoryName": "a", "value": "b"}
    wrapups = [good] * 500 + [{}] + [good] * 5 + [{"categoryName": "a", "value": 1}] + [good] * 500
    assert problems(spoilt("body", {"type": "WRAPUP", "wrapups": wrapups})) == [
        ("missing_field", "/body/wrapups/500/categoryName"),
        ("missing_field", "/body/wrapups/500/value"),
        ("wrong_type", "/body/wrapups/506/value"),
    ]


def test_bad_entries_of_nested_arrays_are_listed_together() -> None:
    sections = [
        {"attributes": [{"label": 1}, {}, {"label": 2}]},
        {},
        {"attributes": [{"answer": "x"}], "sectionName": 3},
    ]
    body = {"type": "FORM_DATA", "formId": "f", "formTitle": "t", "sections": sections}
    assert problems(spoilt("body", body)) == [
        ("wrong_type", "/body/sections/0/attributes/0/label"),
        ("wrong_type", "/body/sections/0/attributes/2/label"),
        ("wrong_type", "/body/sections/2/sectionName"),
        ("wrong_type", "/body/sections/2/attributes/0/answer"),
    ]


def test_errors_far_behind_the_first_bad_entry_are_left_for_the_next_time() -> None:
    stamps = [1, *["x"] * ENTRIES_LISTED, 2]
    assert problems(spoilt("header/stamps", stamps)) == [("wrong_type", "/header/stamps/0")]
