"""The filter language, and paths and rules for editing: what is understood, and the sentence when it is not."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.contract.store.examples import letter
from tests.support.deliveries import NOW
from worker.desk.decide import restorable
from worker.desk.edit import Rules, diff, parse_rules
from worker.desk.errors import DeskError
from worker.desk.filter import parse_filter, parse_time
from worker.desk.masking import masked, text_lines
from worker.desk.options import parse_allowed, parse_ramp
from worker.desk.query import shortest_handles
from worker.desk.times import utc

DEEP = "[" * 900 + "]" * 900
DIGITS = "9" * 5000


def test_rules_are_words_that_a_shell_and_the_command_take_back() -> None:
    text, old_and_new = 'body.text="it\'s $HOME"', "header.customer.id=header.customer._id"
    rules = parse_rules(set_=[text, "body.x=1"], unset=["body.y"], rename=[old_and_new])
    words = ["--rename", old_and_new, "--unset", "body.y", "--set", text, "--set", "body.x=1"]
    assert shlex.split(str(rules)) == rules.words() == words


def query(**words: str | list[str]) -> dict[str, object]:
    return parse_filter(words, now=NOW).query()


def refusal(**words: str | list[str]) -> str:
    with pytest.raises(DeskError) as raised:
        parse_filter(words, now=NOW)
    return str(raised.value)


def test_a_filter_means_open_letters_unless_it_says_otherwise() -> None:
    assert query() == {"status": "open"}
    assert query(status="any") == {}
    assert query(status="open,discarded") == {"status": {"$in": ["open", "discarded"]}}
    assert query(sender="app-1", code=["a", "b"]) == {
        "status": "open",
        "senderId": "app-1",
        "code": {"$in": ["a", "b"]},
    }


def test_times_are_ago_or_dates_or_epoch() -> None:
    assert query(since="2h", until="30m")["lastSeen"] == {"$gte": NOW - 7_200_000, "$lt": NOW - 1_800_000}
    assert parse_time("2026-11-26", now=NOW) == parse_time("2026-11-26T02:00+02:00", now=NOW)
    assert parse_time("1760000000", now=NOW) == parse_time("1760000000000", now=NOW)
    assert parse_time(utc(NOW + 7), now=0) == NOW + 7


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"coed": "x"}, "there is no filter 'coed', did you mean 'code'; there are code, sender,"),
        (
            {"since": "yesterday"},
            "--since: a time is 90s, 15m, 2h, 7d or 4w (before now), or like 2026-01-31T12:00:00Z: not 'yesterday'",
        ),
        ({"since": "1h", "until": "2h"}, "--since is not before --until; exchange them"),
        ({"status": "opne"}, "there is no status 'opne', did you mean 'open'; there are open, sending,"),
        ({"where": "type=FORM"}, "'type' is no field of a message; a message has id, header and body"),
        ({"where": "boby.type=FORM"}, "did you mean 'body.type'?"),
        ({"where": "body.type"}, "--where 'body.type' says nothing; write a field of the message and a value"),
    ],
)
def test_what_is_not_understood_is_one_sentence_with_the_fix(words: dict[str, str], sentence: str) -> None:
    assert sentence in refusal(**words)


def test_conditions_look_into_the_payload() -> None:
    body = json.dumps({"id": "m", "body": {"type": "FORM_DATA", "score": 5, "ok": True, "list": [{"n": "x"}]}}).encode()

    def holds(*conditions: str) -> bool:
        return parse_filter({"where": list(conditions)}, now=NOW).matches(body)

    assert holds("body.type=FORM_DATA", "body.score=5", "body.ok=true", "body.list.0.n=x", "body.gone!=1")
    assert not holds("body.type!=FORM_DATA")
    assert not holds("body.gone=1")
    assert not parse_filter({"where": "id=m"}, now=NOW).matches(b"no json")


def test_values_and_places_that_are_absurdly_deep_or_long_match_nothing() -> None:
    for condition in ("body.x=" + DEEP, f"body.{DIGITS}=1", f"body.{DIGITS}.{DIGITS}=1"):
        assert not parse_filter({"where": condition}, now=NOW).matches(b'{"body": {"x": [1]}}')


@pytest.mark.parametrize("place", [DEEP, '"\\ud800"'])
def test_one_message_that_json_cannot_write_again_keeps_nobody_from_the_others(place: str) -> None:
    hostile = letter(1, f'{{"id": "m", "body": {{"x": {place}}}}}'.encode())
    assert parse_rules(set_=["body.y=1"]).edited(hostile) is hostile
    assert parse_rules(set_=["body.y=1"]).edited(letter(2, b'{"id": "m"}')).body == b'{"id":"m","body":{"y":1}}'


@pytest.mark.parametrize("value", [DEEP, '"\\ud800"', "9" * 30])
def test_a_value_that_json_cannot_write_is_refused(value: str) -> None:
    with pytest.raises(DeskError, match="this value is too large, too deep, or holds half a character"):
        parse_rules(set_=[f"body.y={value}"])


def test_a_filter_can_be_written_again_as_the_words_it_came_from() -> None:
    chosen = parse_filter({"code": "x", "since": "1h", "where": "body.type=A", "status": "any"}, now=NOW)
    assert str(chosen) == f"--code=x --since={utc(NOW - 3_600_000)} --where=body.type=A --status=any"
    assert str(parse_filter({}, now=NOW)) == "all open letters"


def test_handles_are_the_shortest_beginnings_that_no_other_cause_has() -> None:
    assert shortest_handles(["abcdef123456", "abcdef999999", "0123456789ab"]) == {
        "abcdef123456": "abcdef1",
        "abcdef999999": "abcdef9",
        "0123456789ab": "0123",
    }
    assert shortest_handles([]) == {}


def edited(body: str, rules: Rules) -> str:
    return rules.edited(letter(1, body.encode())).body.decode()


def test_rules_rename_unset_and_set_and_leave_the_rest_spelt_as_it_was() -> None:
    rules = parse_rules(
        set_=['header.sender.type="APP"'], unset=["body.secret"], rename=["header.customer.id=header.customer._id"]
    )
    body = '{"id":"m","header":{"sender":{"id":"s"},"customer":{"id":"c"}},"body":{"secret":1,"amount":1.50,"big":1E3}}'
    assert edited(body, rules) == (
        '{"id":"m","header":{"sender":{"id":"s","type":"APP"},"customer":{"_id":"c"}},"body":{"amount":1.50,"big":1E3}}'
    )


def test_what_rules_do_not_touch_is_the_same_letter() -> None:
    rules = parse_rules(unset=["body.gone"])
    for body in (b'{"body": {"a": 1}}', b"no json", b"[1]"):
        one = letter(1, body)
        assert rules.edited(one) is one


def test_the_first_edit_keeps_the_original_and_the_second_does_not_change_that() -> None:
    once = parse_rules(set_=["body.a=1"]).edited(letter(1, b'{"body":{}}'))
    twice = parse_rules(set_=["body.a=2"]).edited(once)
    assert (twice.original_body, twice.revision) == (b'{"body":{}}', 2)
    assert [line for line in diff(once, twice) if line.startswith(("+ ", "- "))] == []  # values are masked
    assert any("2" in line for line in diff(once, twice, reveal=True))


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"set_": ["body.type=APP"]}, "the value 'APP' is no JSON; for a text write --set 'body.type=\"APP\"'"),
        ({"set_": ['header.sender.id="x"']}, "header.sender.id says whose message it is and is locked; --force"),
        ({"unset": ["header"]}, "header says whose message it is and is locked"),
        ({"rename": ["body.a"]}, "--rename 'body.a' has no new name"),
        ({"unset": ["payload.x"]}, "'payload.x' is no field of a message; a message has id, header and body"),
        ({}, "nothing to change: give --set PATH=JSON, --unset PATH or --rename OLD=NEW"),
    ],
)
def test_a_rule_that_cannot_be_is_one_sentence_with_the_fix(rules: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(DeskError) as raised:
        parse_rules(**rules)  # type: ignore[arg-type]
    assert sentence in str(raised.value)


def test_masking_keeps_ids_kinds_and_times_and_hides_the_rest() -> None:
    message = {
        "id": "m",
        "header": {"sender": {"id": "s", "type": "APP", "senderName": "Ann"}, "timestamp": 5, "customer": {"_id": "c"}},
        "body": {"type": "PLAIN", "markdownText": "call me", "score": 7, "ok": True, "none": None},
    }
    assert masked(message) == {
        "id": "m",
        "header": {
            "sender": {"id": "s", "type": "APP", "senderName": "<text of 3>"},
            "timestamp": 5,
            "customer": {"_id": "c"},
        },
        "body": {"type": "PLAIN", "markdownText": "<text of 7>", "score": "<number>", "ok": True, "none": None},
    }


def test_ramps_and_allowed_failures_are_read() -> None:
    assert parse_ramp("1, 10,100") == (1, 10, 100)
    assert (parse_allowed("5%").of(100), parse_allowed("5%").of(10), parse_allowed("3").of(10)) == (5, 0, 3)
    for wrong in ("1,,2", "0", "x", DIGITS):
        with pytest.raises(DeskError, match="write --ramp 1,10,100"):
            parse_ramp(wrong)
    for wrong in ("few", DIGITS):
        with pytest.raises(DeskError, match="--max-failures 5%"):
            parse_allowed(wrong)


def test_only_what_was_decided_can_be_restored() -> None:
    assert restorable(parse_filter({}, now=NOW)).status == ("discarded",)
    assert restorable(parse_filter({"status": "replayed"}, now=NOW)).status == ("replayed",)
    with pytest.raises(DeskError, match="letters that are sending cannot be restored"):
        restorable(parse_filter({"status": "sending"}, now=NOW))


def test_a_filter_that_names_no_letter_says_when_its_code_may_be_misspelt() -> None:
    found = parse_filter({"code": ["missing_ancor", "missing_body", "made_by_a_newer_version"]}, now=NOW).none_found

    assert "missing_ancor" in found
    assert "; no code 'missing_ancor' is known here, did you mean 'missing_anchor'; no code 'made_by" in found
    assert "no code 'missing_body'" not in found
    assert parse_filter({}, now=NOW).none_found == "no letters: all open letters"


def test_a_filter_is_written_so_that_a_shell_takes_it_back() -> None:
    made = parse_filter({"sender": "my app; exit", "where": "body.a!=b"}, now=NOW)

    assert shlex.split(str(made)) == made.words()


def test_only_a_line_feed_ends_a_line_of_a_message_that_is_shown() -> None:
    assert text_lines('{\n "a\u2028b\x85c": 1\r\n}\n') == ["{", ' "a\u2028b\x85c": 1', "}"]
