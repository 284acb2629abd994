"""Whoever follows a delivery is told its outcome, and can neither fail it nor be told of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import NOW, FakeDelivery, delivery
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.dead_letters.provenance import replay_job, replay_of
from worker.dead_letters.reading import read_letter
from worker.ports import Properties

if TYPE_CHECKING:
    from worker.pipeline.settlement import Settled

LETTER = "0123456789abcdef01234567"


def body_of(message_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    body = {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": message_id, "header": header, "body": body}).encode()


class Recording:
    def __init__(self) -> None:
        self.told: list[Settled] = []

    def settled(self, settled: Settled) -> None:
        self.told.append(settled)


class Failing:
    def settled(self, settled: Settled) -> None:
        raise RuntimeError(settled.outcome)


def replayed(body: bytes, **properties: Any) -> FakeDelivery:
    return delivery(body, {contract.REPLAY_OF: LETTER, contract.REPLAY_JOB: "job-1"}, **properties)


async def test_the_outcome_of_a_replay_is_told_with_what_it_was_a_replay_of() -> None:
    listener = Recording()
    harness = PipelineHarness(listeners=[listener])
    await harness.process(replayed(body_of("alone")))
    (told,) = listener.told
    assert (told.outcome, told.reason, told.failure) == ("stored", "stand_alone", None)
    assert (told.identity.message_id, told.identity.event_id in harness.store.held) == ("alone", True)
    properties = told.delivery.properties
    assert (replay_of(properties), replay_job(properties)) == (LETTER, "job-1")


async def test_a_dead_replay_is_told_with_the_id_under_which_its_letter_will_be_recorded() -> None:
    listener = Recording()
    harness = PipelineHarness(listeners=[listener])
    await harness.process(replayed(b"no json"), delivery(b"neither", reply_to="cim.receipts.a"))
    assert [told.outcome for told in listener.told] == ["dead", "dead"]
    for told, letter in zip(listener.told, harness.letters, strict=True):
        recorded = read_letter(
            FakeDelivery(letter.body, Properties(headers=dict(letter.headers or {}))), recorded_at=NOW
        )
        assert told.letter_id == recorded.id
        assert told.failure is not None
        assert told.failure.code == "malformed_json"
    assert listener.told[0].letter_id != listener.told[1].letter_id


async def test_nobody_is_told_of_a_delivery_that_nobody_follows_nor_of_one_a_stranger_calls_a_replay() -> None:
    listener = Recording()
    harness = PipelineHarness(listeners=[listener])
    await harness.process(delivery(body_of("1")), delivery(body_of("2"), {"other": "header"}))
    await harness.process(replayed(body_of("3"), user_id="stranger"), replayed(b"no json", user_id="stranger"))
    assert not listener.told
    assert harness.outcomes == {"stored": 3, "dead": 1}


async def test_a_listener_that_fails_changes_nothing_for_the_delivery_and_the_next_listener() -> None:
    listener = Recording()
    harness = PipelineHarness(listeners=[Failing(), listener])
    await harness.process(replayed(body_of("1")))
    assert harness.outcomes == {"stored": 1}
    assert len(listener.told) == 1
    assert harness.reported.warnings == [("listener_failed", {"listener": "Failing", "reason": "RuntimeError"})]
