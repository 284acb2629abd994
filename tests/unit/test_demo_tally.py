"""The demo's comparison finds what is missing, what is double and what is elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.support.identity import event_id_of
from worker.cli.demo.activities import Sample
from worker.cli.demo.tally import Event, Found, tally


def body(message_id: str) -> bytes:
    header = {"sender": {"id": "app", "type": "APP"}, "conversationId": "c"}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


SAMPLES = [
    Sample(body("m-1"), "survey", "published", "app", "m-1", "c-1", conversation_id="c-1"),
    Sample(body("m-2"), "survey", "stored", "app", "m-2", "c-2"),
    Sample(body("m-2"), "repeated", "duplicate", "app", "m-2", "c-2"),
    Sample(b"3", "no anchor", "dead", "app", "m-3", "c-3", code="missing_anchor"),
]


def found() -> Found:
    """Return what is there when all went well."""
    return Found(
        confirmed=4,
        events=[Event("c-1", event_id_of(body("m-1")), {}, b"{}")],
        stored=[event_id_of(body("m-2"))],
        letters=[("missing_anchor", b"3")],
        duplicates=1,
        exit_status=0,
    )


def test_it_adds_up_when_everything_is_in_its_place() -> None:
    result = tally(SAMPLES, found())

    assert result.complaints == ()
    assert {line.name: line.found for line in result.lines}["sum of the four"] == 4


def test_a_message_that_is_nowhere_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), stored=[])).adds_up


def test_a_document_that_is_there_twice_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), stored=[event_id_of(body("m-2"))] * 2)).adds_up


def test_another_document_than_the_one_sent_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), stored=[event_id_of(body("m-9"))])).adds_up


def test_an_event_in_the_wrong_conversation_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), events=[Event("c-9", event_id_of(body("m-1")), {}, b"{}")])).adds_up


def test_a_dead_letter_with_another_reason_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), letters=[("wrong_type", b"3")])).adds_up


def test_a_dead_letter_with_other_bytes_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), letters=[("missing_anchor", b"4")])).adds_up


def test_a_duplicate_that_nobody_counted_is_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), duplicates=0)).adds_up


def test_messages_left_in_a_queue_are_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), left_behind={"cim.ingress": 1})).adds_up


def test_workers_that_did_not_end_well_are_noticed() -> None:
    assert not tally(SAMPLES, replace(found(), exit_status=1)).adds_up
