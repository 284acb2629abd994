"""Every outcome is written down before its delivery is acknowledged, and a sick journal holds nothing up."""

from __future__ import annotations

import asyncio
import gzip
import json
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import NOW, FakeClock, RecordingReporter, delivery
from tests.support.eventually import eventually_async
from tests.support.fakes import FakePublisher
from tests.support.from_schema import schema_of
from worker import contract
from worker.cim import Identity
from worker.flow.backoff import Backoff
from worker.flow.outage import Outage
from worker.outcome import Outcome
from worker.pipeline import journal as module
from worker.pipeline.journal import Gap, Journal
from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from worker.ports import Delivery, Outgoing

WHO = Identity("app-1", "App", "m-1", "c-1", "0123456789abcdef01234567")


class Harness:
    def __init__(self, publisher: Any = None) -> None:
        self.publisher = publisher or FakePublisher()
        self.opened = 0
        self.connected = True
        self.reported, self.clock = RecordingReporter(), FakeClock()
        self.released: list[Delivery] = []
        self.journal = Journal(
            open_publisher=self.open,
            is_connected=lambda: self.connected,
            gap=Gap(),
            let_go=lambda deliveries: [partial(self.released.extend, list(deliveries))],
            worker="w-1",
            outage=Outage("journal", address="cim.outcomes", reporter=self.reported, clock=self.clock),
            backoff=Backoff(1, 30, random=lambda: 1.0),
            clock=self.clock,
            reporter=self.reported,
        )

    async def open(self) -> Any:
        self.opened += 1
        return self.publisher

    def note(self, count: int = 1, outcome: Outcome = Outcome.STORED) -> None:
        for _ in range(count):
            self.journal.note(delivery(), WHO, outcome, reason="closed", code=None)

    async def settled(self, count: int) -> None:
        await eventually_async(lambda: len(self.released) == count, seconds=5)

    @property
    def written(self) -> list[dict[str, Any]]:
        return [schema_of("journal").checked(json.loads(gzip.decompress(one.body))) for one in self.publisher.taken]


class SilentPublisher(FakePublisher):
    """Never answers while it is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = True

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        if self.silent:
            await asyncio.Event().wait()
        return await super().publish(messages)


async def test_outcomes_of_one_batch_are_one_message_and_release_their_deliveries() -> None:
    harness = Harness()
    harness.note(3)
    assert not harness.released, "not before it is written"
    await harness.settled(3)
    (message,) = harness.written
    assert (message["worker"], message["at"], len(message["outcomes"])) == ("w-1", NOW, 3)
    assert message["outcomes"][0] == {
        "eventId": "0123456789abcdef01234567",
        "messageId": "m-1",
        "senderId": "app-1",
        "conversationId": "c-1",
        "outcome": "stored",
        "reason": "closed",
        "code": None,
        "letterId": None,
        "replayOf": None,
        "receivedAt": NOW,
        "at": NOW,
    }
    (sent,) = harness.publisher.taken
    assert (sent.routing_key, sent.content_encoding) == (contract.OUTCOMES, "gzip")


async def test_an_outcome_has_the_time_when_it_was_proven_and_its_message_that_when_it_was_written() -> None:
    harness = Harness()
    harness.note(1)
    harness.clock.ms += 15
    harness.note(1)
    harness.clock.ms += 5
    await harness.settled(2)
    (message,) = harness.written
    assert ([one["at"] for one in message["outcomes"]], message["at"]) == ([NOW, NOW + 15], NOW + 20)


async def test_what_is_missing_begins_with_the_first_outcome_and_not_with_its_message() -> None:
    harness = Harness()
    harness.publisher.unbound.add(contract.OUTCOMES)
    harness.note(1)
    harness.clock.ms += 15
    harness.note(1)
    await harness.settled(2)
    assert harness.journal._gap.take() == {"from": NOW, "to": NOW + 15, "count": 2}


async def test_what_cannot_be_written_is_released_and_counted_as_missing_and_what_follows_is_written() -> None:
    harness = Harness()
    harness.journal.note(delivery(), WHO._replace(message_id="\ud800"), Outcome.STORED)
    assert len(harness.released) == 1
    harness.clock.ms += 60_000
    harness.note(1)
    await harness.settled(2)
    (message,) = harness.written
    assert (message["gap"]["count"], len(message["outcomes"])) == (1, 1)
    assert harness.reported.down == ["journal broker_unavailable"]


async def test_an_amqp_message_id_is_written_where_it_is_not_the_message_s_own() -> None:
    harness = Harness()
    for properties in ({"message_id": "amqp-1"}, {"message_id": WHO.message_id}, {}):
        harness.journal.note(delivery(**properties), WHO, Outcome.STORED)
    await harness.settled(3)
    assert [one.get("amqpMessageId", "-") for one in harness.written[0]["outcomes"]] == ["amqp-1", "-", "-"]


async def test_a_replay_names_its_letter_and_its_job() -> None:
    harness = Harness()
    headers = {contract.REPLAY_OF: "letter-1", contract.REPLAY_JOB: "job-1"}
    harness.journal.note(delivery(headers=headers), WHO, Outcome.DEAD, code="missing_anchor", letter_id="letter-2")
    await harness.settled(1)
    (entry,) = harness.written[0]["outcomes"]
    assert (entry["replayOf"], entry["replayJob"], entry["letterId"]) == ("letter-1", "job-1", "letter-2")


async def test_a_batch_larger_than_one_message_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTRIES_PER_MESSAGE", 10)
    harness = Harness()
    harness.note(25)
    await harness.settled(25)
    assert [len(message["outcomes"]) for message in harness.written] == [10, 10, 5]


class NarrowPublisher(FakePublisher):
    """Takes no body larger than its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def _publish(self, message: Outgoing) -> Confirmation:
        return Confirmation.TOO_LARGE if len(message.body) > self.limit else super()._publish(message)


async def test_a_broker_that_takes_less_than_a_message_gets_it_in_parts_and_nothing_is_missing() -> None:
    harness = Harness(NarrowPublisher(2000))
    harness.journal._gap.add(NOW - 10, NOW - 5, 7)
    harness.journal.note_all(
        [(delivery(), WHO._replace(message_id=token_hex(100)), Outcome.STORED, None, None, None) for _ in range(100)]
    )
    await harness.settled(100)
    assert len({one["messageId"] for message in harness.written for one in message["outcomes"]}) == 100
    assert sum(len(message["outcomes"]) for message in harness.written) == 100, "each once"
    assert [message["gap"]["count"] for message in harness.written if "gap" in message] == [7]
    assert len({one.message_id for one in harness.publisher.taken}) == len(harness.written) > 1
    assert not harness.reported.down
    assert not harness.reported.missed


async def test_a_broker_that_takes_not_even_one_entry_is_said_and_holds_nothing_up() -> None:
    harness = Harness(NarrowPublisher(20))
    harness.note(3)
    await harness.settled(3)
    assert harness.reported.down == ["journal broker_unavailable"]
    assert harness.reported.missed == 3


async def test_an_id_as_long_as_a_message_is_cut_and_its_neighbours_are_whole() -> None:
    harness = Harness()
    endless = "é" * 400_000
    for sender, message_id in ((endless, endless), ("app-1", "m-1")):
        who = WHO._replace(sender_id=sender, message_id=message_id, conversation_id=endless)
        harness.journal.note(delivery(), who, Outcome.DEAD, code="id_too_long")
    harness.note(1)
    await harness.settled(3)
    long, short, usual = harness.written[0]["outcomes"]
    assert (long["messageId"], long["senderId"], long["conversationId"]) == ("é" * 256,) * 3
    assert (short["messageId"], short["senderId"], usual["conversationId"]) == ("m-1", "app-1", "c-1")


async def test_a_journal_that_is_missing_counts_as_down_is_said_once_and_holds_nothing_up() -> None:
    harness = Harness()
    harness.publisher.unbound.add(contract.OUTCOMES)
    for count in range(1, 6):
        harness.note()
        await harness.settled(count)
    assert harness.reported.down == ["journal broker_unavailable"]
    assert harness.reported.missed == 5


async def test_what_is_missing_is_named_by_the_next_message_that_gets_through() -> None:
    harness = Harness()
    harness.publisher.unbound.add(contract.OUTCOMES)
    harness.note(2)
    await harness.settled(2)
    harness.clock.ms += 500
    harness.note(3)
    await harness.settled(5)
    harness.publisher.unbound.clear()
    harness.clock.ms += 60_000
    harness.note()
    await harness.settled(6)
    await eventually_async(lambda: harness.written, seconds=5)
    assert harness.written[0]["gap"] == {"from": NOW, "to": NOW + 500, "count": 5}
    assert harness.reported.up == ["journal"]
    harness.note()
    await harness.settled(7)
    assert "gap" not in harness.written[-1]


async def test_an_acknowledgement_waits_a_second_at_most_for_a_silent_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONFIRM_SECONDS", 0.05)
    harness = Harness(SilentPublisher())
    harness.note(4)
    await harness.settled(4)
    assert harness.reported.missed == 4
    harness.note()
    await asyncio.sleep(0)
    await harness.settled(5)
    assert harness.opened == 1, "while it is down nothing waits for it"
    assert not harness.reported.down, "one silence may be a broker that stops"
    harness.clock.ms += 60_000
    harness.note()
    await eventually_async(lambda: harness.reported.down == ["journal broker_unavailable"], seconds=5)


async def test_a_journal_whose_channel_ended_gets_another_one() -> None:
    harness = Harness()
    harness.publisher.lost = True
    harness.note()
    await harness.settled(1)
    harness.publisher.lost = False
    harness.clock.ms += 60_000
    harness.note()
    await eventually_async(lambda: harness.written, seconds=5)
    assert harness.opened == 2


async def test_an_outage_of_the_broker_is_none_of_the_journal() -> None:
    harness = Harness()
    harness.publisher.lost = True
    harness.connected = False
    harness.note(2)
    await harness.settled(2)
    assert not harness.reported.down
    harness.publisher.lost, harness.connected = False, True
    harness.note()
    await harness.settled(3)
    assert harness.written[0]["gap"]["count"] == 2, "but what it missed is told"


async def test_at_the_end_of_a_session_what_is_proven_is_acknowledged_though_it_is_not_written() -> None:
    harness = Harness(SilentPublisher())
    harness.note(2)
    await asyncio.sleep(0)
    harness.note(1)
    harness.journal.release_all()
    assert len(harness.released) == 3
    harness.journal.release_all()
    assert len(harness.released) == 3, "each once"
    assert harness.reported.missed == 3, "and may be missing"


async def test_what_was_released_at_the_end_of_a_session_is_counted_once_though_its_message_fails_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CONFIRM_SECONDS", 0.05)
    harness = Harness(SilentPublisher())
    harness.note(2)
    await asyncio.sleep(0)
    harness.note(1)
    harness.journal.release_all()
    await eventually_async(lambda: not harness.journal._written, "both messages have failed")
    assert harness.reported.missed == 3
    assert (harness.journal._gap.take() or {})["count"] == 3


class SlowPublisher(FakePublisher):
    """Confirms when it is told to; *gives_up*: is silent until then, as if the time for its confirm were over."""

    def __init__(self, *, gives_up: bool = False) -> None:
        super().__init__()
        self.may_confirm = asyncio.Event()
        self.gives_up = gives_up
        self.asked = 0

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        self.asked += 1
        await self.may_confirm.wait()
        if self.gives_up:
            raise TimeoutError
        return await super().publish(messages)


async def test_an_acknowledgement_waits_for_its_own_message_and_not_for_the_one_before_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CONFIRM_SECONDS", 60)
    slow = SlowPublisher()
    harness = Harness(slow)
    harness.note(1)
    await eventually_async(lambda: slow.asked == 1, "the first message is on its way")
    harness.note(1)
    await eventually_async(lambda: slow.asked == 2, "the second one does not wait for its confirm")
    assert not harness.released
    slow.may_confirm.set()
    await harness.settled(2)
    assert not harness.reported.missed


async def test_messages_that_are_silent_together_are_one_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_JOIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "_CONFIRM_SECONDS", 60)
    slow = SlowPublisher(gives_up=True)
    harness = Harness(slow)
    harness.note(1)
    await eventually_async(lambda: slow.asked == 1, "the first message is on its way")
    harness.note(1)
    await eventually_async(lambda: slow.asked == 2, "and the second")
    slow.may_confirm.set()
    await harness.settled(2)
    await eventually_async(lambda: not harness.journal._written, "both have failed")
    assert harness.reported.missed == 2
    assert not harness.reported.down, "it may be a broker that stops"


async def test_outcomes_of_batches_that_end_while_a_message_is_on_its_way_share_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_JOIN_SECONDS", 60)
    monkeypatch.setattr(module, "_CONFIRM_SECONDS", 60)
    slow = SlowPublisher()
    harness = Harness(slow)
    for _ in range(4):
        harness.note(10)
        await asyncio.sleep(0.01)
    assert not harness.released
    slow.may_confirm.set()
    await harness.settled(40)
    assert [len(message["outcomes"]) for message in harness.written] == [10, 30]


async def test_after_a_message_of_many_the_next_outcomes_gather_and_after_one_of_few_they_are_written_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GATHER_SECONDS", 60)
    harness = Harness()
    for count in (3, 6, 26):
        harness.note(count - len(harness.released))
        await harness.settled(count)
    for _ in range(20):
        harness.note(10)
        await asyncio.sleep(0)
    await harness.settled(226)
    assert [len(message["outcomes"]) for message in harness.written] == [3, 3, 20, 200], "200 are worth a message"
    harness.note(1)
    harness.journal.release_all()
    assert len(harness.released) == 227, "the end of a session waits for nothing"
