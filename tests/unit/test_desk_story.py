"""One story for what is one message, whatever its pieces are called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.deliveries import FakeDelivery
from worker.dead_letters.reading import read_letter
from worker.desk.journal import Entry
from worker.desk.story import StoredActivity, tell

if TYPE_CHECKING:
    from worker.dead_letters.letter import LetterRecord

SENDER = b'"sender": {"id": "app-1", "type": "APP"}'
BROKEN = b'{"id": "call-1", "header": {%b}, "body": {"type": "PLAIN", "markdownText": "x"}}' % SENDER
FIXED = BROKEN.replace(SENDER, SENDER + b', "customer": {"_id": "u-1"}')


def letter(body: bytes = BROKEN) -> LetterRecord:
    return read_letter(FakeDelivery(body), recorded_at=1)


def entry(outcome: str, at: int, **raw: str) -> Entry:
    return Entry("w", {"messageId": "call-1", "senderId": "app-1", **raw}, outcome, at)


def test_a_letter_its_fix_and_its_replay_are_one_story() -> None:
    edited = replace(letter(), body=FIXED, revision=1, status="settled", status_at=30, outcome="stored")
    event = "e" * 24
    (story,) = tell(
        [entry("dead", 10), entry("stored", 20, eventId=event, replayOf=edited.id)],
        [StoredActivity(event, "call-1", "app-1", None, None, "u-1", "stand_alone", 21)],
        [edited],
    )
    assert story.event_id == event
    assert [one.what for one in story.timeline()] == [
        *("letter", "received", "dead", "received", "stored", "document", "settled"),
    ]
    assert story.letters == [edited]


def test_a_letter_that_died_again_and_its_successor_are_one_story() -> None:
    first = replace(letter(), status="died_again", successor="b" * 24)
    second = replace(letter(), id="b" * 24, replay_of=first.id)
    (story,) = tell([], [], [second, first])
    assert {one.id for one in story.letters} == {first.id, second.id}


def test_activities_of_one_message_id_are_a_story_each() -> None:
    events = ["a" * 24, "b" * 24]
    stories = tell([entry("stored", at, eventId=event) for at, event in enumerate(events)], [], [])
    assert [one.event_id for one in stories] == events


def test_attempts_are_counted_and_a_duplicate_is_none() -> None:
    event = {"eventId": "a" * 24}
    entries = [entry("retry", 1, **event), entry("stored", 2, **event), entry("duplicate", 3, **event)]
    (story,) = tell(entries, [], [])
    assert [one.text.split(" (")[0] for one in story.timeline() if one.what == "received"] == [
        *("received", "received, attempt 2", "received, attempt 2"),
    ]
