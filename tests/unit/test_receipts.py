"""A publisher that asks is told the outcome, at an allowed address only, and nothing ever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import NOW, FakeClock, FakeDelivery, RecordingReporter, delivery
from tests.support.eventually import eventually_async
from tests.support.from_schema import schema_of
from tests.support.pipeline_harness import PipelineHarness
from tests.unit.test_settlement import body_of
from worker import contract
from worker.cim import Identity
from worker.flow.backoff import Backoff
from worker.outcome import Outcome
from worker.pipeline import receipts as module
from worker.pipeline.receipts import Receipts
from worker.pipeline.settlement import Settled
from worker.ports import Properties
from worker.rabbit.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.ports import Outgoing

DIRECT = "amq.rabbitmq.reply-to.g1h2AA.key"
NAMED = "cim.receipts.app"


class FakeChannel:
    """Takes everything; raises what it is told to."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.ended = 0

    async def ready(self) -> None:
        await asyncio.sleep(0)

    def send(self, receipts: Sequence[Outgoing]) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent += receipts
        self.batches.append(len(receipts))

    async def end(self) -> None:
        self.ended += 1


class Harness:
    def __init__(self, queues: str = r"^cim\.receipts\.") -> None:
        self.reported = RecordingReporter()
        self.receipts = Receipts(
            queues=queues,
            clock=FakeClock(),
            reporter=self.reported,
            new_backoff=lambda: Backoff(0.01, 0.01, random=lambda: 0.0),
        )
        self.pipeline = PipelineHarness(listeners=[self.receipts])
        self.channel = FakeChannel()
        self.opened = 0

    async def open(self) -> FakeChannel:
        self.opened += 1
        return self.channel

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.receipts.run(self.open, lambda: True))
        yield
        await self.receipts.finish(task, lambda: True)

    def tell(self, count: int) -> None:
        """Settle *count* deliveries that ask."""
        for _ in range(count):
            self.receipts.settled(Settled(delivery(reply_to=DIRECT), Identity(message_id="m"), Outcome.STORED))

    async def told(self, *deliveries: FakeDelivery) -> list[dict[str, Any]]:
        """Process *deliveries* and return the receipts as their readers see them."""
        async with self.session():
            await self.pipeline.process(*deliveries)
        return [schema_of("receipt").checked(json.loads(one.body)) for one in self.channel.sent]


async def test_a_receipt_says_outcome_ids_and_reason_and_can_be_matched_to_what_was_sent() -> None:
    harness = Harness()
    asking = delivery(body_of("alone"), reply_to=DIRECT, correlation_id="call-7")
    (receipt,) = await harness.told(asking)
    (event_id,) = harness.pipeline.store.held
    assert receipt == {
        "outcome": "stored",
        "eventId": event_id,
        "messageId": "alone",
        "conversationId": None,
        "reason": "stand_alone",
        "code": None,
        "problems": [],
        "at": NOW,
    }
    (sent,) = harness.channel.sent
    assert sent.routing_key == DIRECT
    assert (sent.correlation_id, sent.message_id) == ("call-7", f"{event_id}.stored")


async def test_a_rejected_message_is_told_with_all_of_its_problems_and_no_more() -> None:
    body = json.loads(body_of("bad"))
    del body["header"]["customer"], body["body"]
    harness = Harness()
    (receipt,) = await harness.told(delivery(json.dumps(body).encode(), reply_to=NAMED, message_id="amqp-1"))
    assert (receipt["outcome"], receipt["messageId"]) == ("dead", "bad")
    assert {(one["code"], one["pointer"]) for one in receipt["problems"]} == {
        ("missing_anchor", "/header"),
        ("missing_body", "/body"),
    }
    assert receipt["code"] == receipt["problems"][0]["code"]
    assert harness.channel.sent[0].correlation_id == "amqp-1", "without a correlation id its AMQP message id"


async def test_a_receipt_has_of_an_id_as_long_as_a_message_what_a_header_holds() -> None:
    harness = Harness()
    endless = "x" * 1_000_000
    for message_id in (endless, "m-1"):
        who = Identity(message_id=message_id, conversation_id=message_id)
        harness.receipts.settled(Settled(delivery(reply_to=DIRECT), who, Outcome.STORED))
    async with harness.session():
        await eventually_async(lambda: len(harness.channel.sent) == 2, "both are sent")
    long, short = [schema_of("receipt").checked(json.loads(one.body)) for one in harness.channel.sent]
    assert (long["messageId"], long["conversationId"]) == ("x" * 512, "x" * 512)
    assert (short["messageId"], short["conversationId"]) == ("m-1", "m-1")


async def test_a_bug_of_ours_tells_the_publisher_its_code_and_no_inside() -> None:
    harness = Harness()
    harness.pipeline.store.bug = RuntimeError("password=secret")
    headers = {contract.ATTEMPT: 3, contract.REPLY_TO: DIRECT}
    (receipt,) = await harness.told(delivery(body_of("1"), headers))
    assert (receipt["outcome"], receipt["code"], receipt["problems"]) == ("dead", "unexpected_error", [])
    assert b"secret" not in harness.channel.sent[0].body


@pytest.mark.parametrize(
    "address",
    [
        "cim.ingress",
        "cim.ingress.waiting",
        "cim.ingress.retry.1s",
        "cim.dead-letters",
        "cim.dead-letters.parked",
        "cim.conversation-events",
        "cim.outcomes",
        "cim.reconciler",
    ],
)
async def test_no_queue_of_ours_gets_a_receipt_whatever_the_operator_allows(address: str) -> None:
    harness = Harness(".*")
    assert not await harness.told(delivery(body_of("1"), reply_to=address))
    assert harness.reported.receipt_results == {"address_refused": 1}
    assert harness.pipeline.outcomes == {"stored": 1}


@pytest.mark.parametrize("address", ["orders", "xcim.receipts.a", "amq.rabbitmq.reply-to", "cim.receipts." + "�" * 85])
async def test_an_address_that_is_not_allowed_gets_nothing_and_is_counted(address: str) -> None:
    harness = Harness()
    assert not await harness.told(delivery(body_of("1"), reply_to=address))
    assert harness.reported.receipt_results == {"address_refused": 1}


async def test_without_allowed_names_only_direct_replies_are_sent() -> None:
    harness = Harness("")
    assert len(await harness.told(delivery(body_of("1"), reply_to=NAMED), delivery(body_of("2"), reply_to=DIRECT))) == 1


async def test_a_strangers_word_for_our_own_headers_is_ignored() -> None:
    harness = Harness()
    forged = {contract.REPLY_TO: NAMED, contract.ATTEMPT: 9}
    assert not await harness.told(delivery(body_of("1"), forged, user_id="stranger"))
    assert not harness.reported.receipt_results


async def test_delays_are_told_only_to_who_wants_all_and_the_final_outcome_always() -> None:
    harness = Harness()
    harness.pipeline.store.bug = RuntimeError("for now")
    both = [
        delivery(body_of("all"), {contract.RECEIPTS: "all"}, reply_to=DIRECT),
        delivery(body_of("final"), {contract.RECEIPTS: "yes"}, reply_to=DIRECT),
    ]
    receipts = await harness.told(*both)
    assert [(one["messageId"], one["outcome"], one["code"]) for one in receipts] == [
        ("all", "delayed", "unexpected_error")
    ]
    harness.pipeline.store.bug = None
    copies = [delivery_of(copy) for copy in harness.pipeline.at("cim.ingress.retry.1s", "")]
    receipts = await harness.told(*copies)
    assert [(one["messageId"], one["outcome"]) for one in receipts[1:]] == [("all", "stored"), ("final", "stored")]
    assert {one.routing_key for one in harness.channel.sent} == {DIRECT}


async def test_the_waiting_room_keeps_the_address() -> None:
    harness = Harness()
    harness.pipeline.store.away = True
    batch = [delivery(body_of(str(number)), reply_to=DIRECT) for number in range(20)]
    await harness.told(*batch)
    assert harness.pipeline.waiting
    assert all((one.headers or {})[contract.REPLY_TO] == DIRECT for one in harness.pipeline.waiting)
    await harness.pipeline.pipeline.stop()
    await harness.pipeline.store_gate.stop()


def delivery_of(copy: Outgoing) -> FakeDelivery:
    return FakeDelivery(copy.body, Properties(headers=dict(copy.headers or {})))


async def test_a_channel_that_fails_is_reported_once_and_replaced_and_nothing_is_lost() -> None:
    harness = Harness()
    harness.channel.failure = ConnectionLost("the channel ended")
    async with harness.session():
        await harness.pipeline.process(delivery(body_of("1"), reply_to=DIRECT))
        await eventually_async(lambda: harness.opened > 3)
        assert harness.pipeline.outcomes == {"stored": 1}
        harness.channel.failure = None
        await eventually_async(lambda: harness.channel.sent)
    assert harness.reported.warnings == [("receipts_interrupted", {"reason": "the channel ended"})]


async def test_a_receipt_that_cannot_be_written_is_dropped_and_does_not_hold_up_the_others() -> None:
    harness = Harness()
    harness.channel.failure = ValueError("too long")
    async with harness.session():
        await harness.pipeline.process(delivery(body_of("1"), reply_to=DIRECT))
        await eventually_async(lambda: harness.reported.receipt_results == {"dropped": 1})
        harness.channel.failure = None
        await harness.pipeline.process(delivery(body_of("2"), reply_to=DIRECT))
        await eventually_async(lambda: harness.channel.sent)


async def test_what_waits_for_a_broker_that_takes_nothing_is_bounded_and_survives_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 2500)
    harness = Harness()
    await harness.pipeline.process(*(delivery(body_of(str(number)), reply_to=DIRECT) for number in range(30)))
    assert harness.pipeline.outcomes == {"stored": 30}
    dropped = harness.reported.receipt_results["dropped"]
    assert 0 < dropped < 30
    async with harness.session():
        await eventually_async(lambda: len(harness.channel.sent) == 30 - dropped)
    await harness.told(delivery(body_of("later"), reply_to=DIRECT))
    assert len(harness.channel.sent) == 30 - dropped + 1, "there is room again"


async def test_receipts_that_follow_many_gather_and_one_alone_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.5)
    harness = Harness()
    async with harness.session():
        for count in (1, 2, 22):
            harness.tell(count - len(harness.channel.sent))
            await eventually_async(lambda count=count: len(harness.channel.sent) == count)  # type: ignore[misc]
        for _ in range(4):
            harness.tell(5)
            await asyncio.sleep(0)
        await eventually_async(lambda: len(harness.channel.sent) == 42)
    assert harness.channel.batches == [1, 1, 20, 20]
