"""What fuzzing found: headers and events that strangers wrote must not harm what is innocent, nor be believed."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.support.deliveries import NOW, delivery
from tests.support.examples import accepted
from worker import contract
from worker.cim import Identity
from worker.codes import Code, Problem
from worker.conversations.conversation import ChannelSession, Conversation
from worker.dead_letters.envelope import carried_headers, dead_letter
from worker.dead_letters.provenance import strip_reserved_headers
from worker.dead_letters.reading import read_letter
from worker.failure import Failure
from worker.ops.metrics import Metrics
from worker.ops.reporter import LoggingReporter
from worker.pipeline.translate import translate

REASON = Failure.of_problems((Problem(Code.MISSING_BODY, "/body", "A body."),))
PRETENCE = {contract.FAILED_AT: 1, contract.ORIGIN_QUEUE: "q", contract.USER_ID: "admin", contract.ATTEMPT: 999}


@pytest.mark.parametrize("state", [[], {"name": []}, {"name": {}}, 1])
def test_a_session_state_that_is_no_text_does_not_kill_the_messages_of_its_conversation(state: object) -> None:
    conversation = Conversation("c-1", "ACTIVE", None, None, (ChannelSession.of({"id": "s-1", "state": state}),), 1)
    activity = translate(accepted(_MESSAGE), conversation, now=NOW)
    assert activity.event["channelSession"] == {"id": "s-1", "state": state}


def test_the_message_id_of_a_copy_is_the_one_a_return_will_name() -> None:
    one = dead_letter(delivery(message_id="\ufffd" * 255), REASON, Identity(), now=NOW, copy_id="x")
    assert one.message_id == "\ufffd" * 85


def test_a_death_before_the_beginning_of_time_can_be_stored() -> None:
    headers = {"x-death": [{"reason": "rejected", "time": -(2**63)}]}
    assert read_letter(delivery(headers=headers), recorded_at=NOW).failed_at == -(2**63)


def test_a_hostile_id_costs_one_bounded_line_of_the_log() -> None:
    with capture_logs() as lines:
        LoggingReporter(Metrics()).letter(REASON, Identity("a\nb\x1b[2J", "n", "x" * 1_000_000), 1, retry=False)
    assert lines[0]["sender_id"] == "a\ufffdb\ufffd[2J"
    assert len(lines[0]["message_id"]) == 256


@pytest.mark.parametrize("publisher", [None, "publisher"])
def test_nobody_but_the_worker_can_say_who_published(publisher: str | None) -> None:
    one = delivery(headers=dict(PRETENCE), user_id=publisher)
    strip_reserved_headers(one, {"worker", "desk"})
    assert carried_headers(one).get(contract.USER_ID) == publisher
    assert one.properties.headers == {}


def test_a_copy_of_the_worker_is_believed() -> None:
    one = delivery(headers=dict(PRETENCE), user_id="worker")
    strip_reserved_headers(one, {"worker", "desk"})
    assert carried_headers(one)[contract.USER_ID] == "admin"


def test_without_checked_senders_a_validated_user_wins_over_what_the_headers_say() -> None:
    one = delivery(headers=dict(PRETENCE), user_id="publisher")
    strip_reserved_headers(one, set())
    assert carried_headers(one)[contract.USER_ID] == "publisher"


_MESSAGE = b'{"id":"m","header":{"sender":{"id":"s","type":"APP"},"conversationId":"c-1"},"body":{"type":"PLAIN"}}'
