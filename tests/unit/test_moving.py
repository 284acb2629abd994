"""What comes by the queue's name goes to the partition of its key, with all we know and nothing a stranger says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.deliveries import FakeDelivery, RecordingReporter
from tests.support.eventually import eventually_async
from tests.support.fakes import FakePublisher
from worker import contract
from worker.codes import Code
from worker.dead_letters.envelope import retry_copy
from worker.dead_letters.provenance import attempt_of, published_by, reply_to
from worker.failure import Failure
from worker.flow.pause import Pause
from worker.flow.tasks import cancel_and_wait
from worker.pipeline.moving import Mover, PartitionKeys
from worker.ports import Outgoing, Properties

OURS = "cim-worker"


class FakeConsumer:
    """Has delivered all it ever will."""

    def __init__(self, *deliveries: FakeDelivery) -> None:
        self.left, self.settled = list(deliveries), list[Any]()
        self.cancelled = asyncio.Event()
        self.handed_back = self.is_closed = False

    def is_empty(self) -> bool:
        return not self.left

    async def wait_for_arrival(self) -> None:
        await eventually_async(lambda: bool(self.left))

    def take(self, max_count: int, _max_bytes: int) -> list[FakeDelivery]:
        taken, self.left = self.left[:max_count], self.left[max_count:]
        return taken

    def settle(self, delivery: Any) -> None:
        self.settled.append(delivery)

    async def hand_back(self, *, failed: bool = False) -> list[FakeDelivery]:
        self.handed_back = not failed
        return []

    async def close(self) -> None:
        self.is_closed = True


def message(**header: Any) -> bytes:
    sender, body = {"id": "a", "type": "APP"}, {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": "m-1", "header": {"sender": sender, **header}, "body": body}).encode()


def by_name(body: bytes, headers: dict[str, Any] | None = None, **properties: Any) -> FakeDelivery:
    """Return what a publisher put into the queue by the default exchange."""
    return FakeDelivery(body, Properties(headers=headers or {}, **properties), "", contract.INGRESS)


def mover(consumer: Any, publisher: FakePublisher) -> Mover:
    return Mover(
        consumer=consumer,
        publisher=publisher,
        keys=PartitionKeys({OURS}, 10_000),
        pause=Pause(None),
        reporter=RecordingReporter(),
        new_id=lambda: "copy",
        on_moved=lambda _count: None,
    )


def moved(*deliveries: FakeDelivery) -> list[Outgoing]:
    async def run() -> list[Outgoing]:
        consumer, publisher = FakeConsumer(*deliveries), FakePublisher()
        task = asyncio.create_task(mover(consumer, publisher).run())
        await eventually_async(lambda: len(consumer.settled) == len(deliveries))
        await cancel_and_wait([task])
        return publisher.taken

    return asyncio.run(run())


def arrived(outgoing: Outgoing) -> FakeDelivery:
    """Return the delivery that a worker gets of what was moved: published by us, vouched for by the broker."""
    properties = Properties(headers=dict(outgoing.headers or {}), user_id=OURS, message_id=outgoing.message_id)
    return FakeDelivery(outgoing.body, properties, outgoing.exchange, outgoing.routing_key, "cim.ingress.1")


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (message(conversationId="c-1", channelSessionId="s-1", customer={"_id": "k-1"}), "c-1"),
        (message(channelSessionId="s-1", customer={"_id": "k-1"}), "s-1"),
        (message(customer={"_id": "k-1"}), "k-1"),
        (message(conversationId="ä" * 200), "ä" * 127),
        (message(), ""),
        (b"no JSON", ""),
        (b"", ""),
    ],
)
def test_a_publishers_message_goes_by_its_most_specific_anchor_byte_for_byte(body: bytes, key: str) -> None:
    [copy] = moved(by_name(body, message_id="m-1", correlation_id="7"))
    assert (copy.exchange, copy.routing_key, copy.body) == (contract.PARTITIONS, key, body)
    assert (copy.message_id, copy.correlation_id) == ("m-1", "7")


def test_a_retry_goes_by_the_key_it_entered_with_and_keeps_its_attempt() -> None:
    entered = FakeDelivery(message(conversationId="c-1"), Properties(), "cim.ingress", "their.key", "cim.ingress.2")
    retry = retry_copy(entered, Failure.of(Code.STORE_UNAVAILABLE), "1s", attempt=3, now=7, copy_id="copy")
    back = by_name(retry.body, dict(retry.headers or {}), user_id=OURS)
    [copy] = moved(back)
    assert copy.routing_key == "their.key"
    assert attempt_of(arrived(copy)) == 3
    assert (copy.headers or {})[contract.FIRST_FAILED_AT] == 7
    assert (copy.headers or {})[contract.ORIGIN_QUEUE] == "cim.ingress.2"


def test_a_retry_of_what_came_by_name_goes_by_its_anchor_again() -> None:
    [first] = moved(by_name(message(conversationId="c-1")))
    failed = arrived(first)
    retry = retry_copy(failed, Failure.of(Code.STORE_UNAVAILABLE), "1s", attempt=2, now=7, copy_id="copy")
    [second] = moved(by_name(retry.body, dict(retry.headers or {}), user_id=OURS))
    assert first.routing_key == second.routing_key == "c-1"
    origin = (contract.ORIGIN_EXCHANGE, contract.ORIGIN_ROUTING_KEY, contract.ORIGIN_QUEUE)
    assert [(second.headers or {})[name] for name in origin] == ["", "cim.ingress", "cim.ingress"]


def test_a_stranger_cannot_have_us_vouch_for_headers_of_ours() -> None:
    lies = {contract.ATTEMPT: 9, contract.ORIGIN_ROUTING_KEY: "x", contract.ORIGIN_EXCHANGE: "y", contract.USER_ID: "z"}
    lies |= {contract.ORIGIN_QUEUE: "cim.ingress", contract.FAILED_AT: 1, contract.REPLY_TO: "cim.receipts.other"}
    [copy] = moved(by_name(message(conversationId="c-1"), lies, user_id="publisher"))
    assert copy.routing_key == "c-1"
    worked_on = arrived(copy)
    assert (attempt_of(worked_on), published_by(worked_on), reply_to(worked_on.properties)) == (1, "publisher", None)


@pytest.mark.parametrize("user", ["recorder", None])
def test_who_published_it_stays_known_and_nobody_is_taken_for_us(user: str | None) -> None:
    [copy] = moved(by_name(message(conversationId="c-1"), user_id=user))
    assert published_by(arrived(copy)) == user


def test_what_its_publisher_asked_for_comes_with_it() -> None:
    headers = {contract.IDEMPOTENCY_KEY: "k", contract.RECEIPTS: "all", contract.TRACEPARENT: "00-1-1-01", "own": 1}
    [copy] = moved(by_name(message(conversationId="c-1"), headers, reply_to="cim.receipts.recorder"))
    assert reply_to(arrived(copy).properties) == "cim.receipts.recorder"
    kept = {name: (copy.headers or {}).get(name) for name in headers}
    assert kept == {**headers, "own": None}


def test_a_clean_stop_ends_what_is_being_moved_and_an_unclean_one_settles_nothing() -> None:
    async def run() -> None:
        for clean in (True, False):
            consumer, publisher = FakeConsumer(by_name(message(conversationId="c-1"))), FakePublisher()
            publisher.answers.clear()
            subject = mover(consumer, publisher)
            task = asyncio.create_task(subject.run())
            await eventually_async(consumer.is_empty)
            await cancel_and_wait([task])
            asyncio.get_running_loop().call_later(0.05, publisher.answers.set)
            await (subject.finish(5) if clean else subject.abandon())
            assert (len(consumer.settled), consumer.handed_back) == (int(clean), clean)

    asyncio.run(run())
