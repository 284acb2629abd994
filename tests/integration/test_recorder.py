"""The recorder on a real broker and store: letters out of the queue and into the collection, each once."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pymongo

from tests.contract.store.examples import letter
from tests.support import wire_proxy as wire
from tests.support.amqp import depth, drained, plain
from tests.support.deliveries import NOW, delivery
from tests.support.eventually import eventually_async
from tests.support.examples import raw
from tests.support.workbench import Workbench, running, workbench
from tests.unit.test_envelope import REASON, WHO
from worker.codes import Code, Stage
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.recorder import DeadLetterRecorder
from worker.failure import Failure, OperatorFault, StoreUnavailable, store_silent
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.letters import LetterCollection
from worker.ports import Confirmation
from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import pytest
    from pika.adapters.blocking_connection import BlockingChannel as Channel

    from tests.services.services import Broker, Store
    from worker.dead_letters.letter import LetterRecord, RecordResult
    from worker.dead_letters.recorder import LetterStore

QUEUE = "cim.dead-letters"


def recorder(bench: Workbench, letters: LetterStore, interval_ms: int = 50, **options: Any) -> DeadLetterRecorder:
    return DeadLetterRecorder(
        open_queue=lambda: Consumer.open(bench.connection, QUEUE, time.monotonic),
        letters=letters,
        publisher=bench.publisher,
        gate=bench.gate,
        interval_ms=interval_ms,
        clock=bench.clock,
        reporter=bench.reported,
        new_id=bench.new_id,
        **options,
    )


@asynccontextmanager
async def at_work(bench: Workbench, letters: LetterStore | None = None) -> AsyncIterator[None]:
    async with running(recorder(bench, letters or DeadLetterStore(bench.store)).run()):
        yield


def recorded(store: Store, database: str) -> list[dict[str, Any]]:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(store.uri)
    with client:
        return list(client[database]["dead_letters"].find())


async def put_ours(bench: Workbench, *bodies: bytes) -> None:
    copies = [
        dead_letter(delivery(body, message_id=f"m-{number}"), REASON, WHO, now=NOW, copy_id="x")
        for number, body in enumerate(bodies)
    ]
    assert set(await bench.publisher.publish(copies)) == {Confirmation.CONFIRMED}


def put_strange(url: str, body: bytes, **properties: Any) -> None:
    with plain(url) as channel:
        channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2, **properties))


async def test_letters_of_all_kinds_are_recorded_once_and_leave_the_queue(
    vhost_url: str, store: Store, database: str
) -> None:
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, b"one", b"two")
        await put_ours(bench, b"one", b"two")
        put_strange(vhost_url, raw("loan_step"), headers={"anything": ["goes", 15, None]})
        put_strange(vhost_url, b"\xff\x00", headers={"cim-code": 7, "cim-problems": "not json"})
        async with at_work(bench):
            await eventually_async(lambda: bench.reported.done["letters"] == 6)
            assert len(recorded(store, database)) == 4
            await put_ours(bench, b"one", b"three")
            await eventually_async(lambda: bench.reported.done["letters"] == 8)
    found = recorded(store, database)
    counts = {one["body"]: one["count"] for one in found}
    assert counts == {b"one": 3, b"two": 2, b"three": 1, raw("loan_step"): 1, b"\xff\x00": 1}
    assert {one["code"] for one in found} == {"wrong_type", "foreign_letter"}
    assert {one["status"] for one in found} == {"open"}
    assert depth(vhost_url, QUEUE) == 0


async def test_at_its_limit_the_recorder_leaves_letters_in_their_queue_and_says_so(
    vhost_url: str, store: Store, database: str
) -> None:
    async with workbench(vhost_url, store.uri, database) as bench:
        letters, looked = DeadLetterStore(bench.store), Counter[str]()

        async def count_letters() -> int:
            looked["for letters"] += 1
            return await letters.count()

        await put_ours(bench, b"one", b"two")
        async with running(recorder(bench, letters, count_letters=count_letters, max_letters=2).run()):
            await eventually_async(lambda: bench.reported.warnings)  # the round that filled it is over
            assert bench.reported.warnings == [("letters_full", {"letters": 2, "limit": 2})]
            await put_ours(bench, b"three")
            await eventually_async(lambda: depth(vhost_url, QUEUE) == 1)
            looked.clear()
            await eventually_async(lambda: looked["for letters"] > 2)
            assert depth(vhost_url, QUEUE) == 1
            await bench.store.collection("dead_letters").delete_many({})
            await eventually_async(lambda: depth(vhost_url, QUEUE) == 0)


async def test_letters_kept_long_enough_are_deleted_now_and_then_and_that_may_fail(
    vhost_url: str, store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    async def no_right_to_delete(now: int) -> int:
        told.append(now)
        raise OperatorFault(Failure.of(Code.STORE_REJECTED, "No right to delete.", stage=Stage.STORE))

    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, b"one")
        async with running(recorder(bench, DeadLetterStore(bench.store), delete_expired=no_right_to_delete).run()):
            await eventually_async(lambda: len(recorded(store, database)) == 1)
            assert len(told) == 1
            assert [event for event, _ in bench.reported.warnings] == ["recording_interrupted"]
            monkeypatch.setattr("worker.dead_letters.recorder._EXPIRY_SECONDS", 0.1)
            await eventually_async(lambda: len(told) == 2)


async def test_a_letter_larger_than_a_document_is_parked_and_listed(
    vhost_url: str, store: Store, database: str
) -> None:
    huge = b"x" * (16 * 1024 * 1024)
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, huge, b"small")
        async with at_work(bench):
            await eventually_async(lambda: bench.reported.done["letters"] == 2)
    by_status = {one["status"]: one for one in recorded(store, database)}
    assert by_status["open"]["body"] == b"small"
    assert by_status["parked"]["body"] == b""
    assert by_status["parked"]["code"] == "wrong_type"
    ((_, properties, body),) = drained(vhost_url, "cim.dead-letters.parked")
    assert body == huge
    assert properties.headers["cim-code"] == "wrong_type"


async def test_letters_of_the_same_bytes_are_one_document_with_their_number(
    vhost_url: str, store: Store, database: str
) -> None:
    """Five times the same from a stranger; ten deliveries of the same invalid bytes, dead at different times."""
    async with workbench(vhost_url, store.uri, database) as bench:
        for _ in range(5):
            put_strange(vhost_url, b"strange")
        copies = [
            dead_letter(delivery(b"invalid", message_id="m-1"), REASON, WHO, now=NOW + number, copy_id="x")
            for number in range(10)
        ]
        await bench.publisher.publish(copies[:7])
        async with at_work(bench):
            await eventually_async(lambda: bench.reported.done["letters"] == 12)
            await bench.publisher.publish(copies[7:])
            await eventually_async(lambda: bench.reported.done["letters"] == 15)
            await eventually_async(lambda: {one["unsettled"] for one in recorded(store, database)} == {0})
    by_body = {one["body"]: one for one in recorded(store, database)}
    assert (by_body[b"strange"]["count"], by_body[b"invalid"]["count"]) == (5, 10)
    assert (by_body[b"invalid"]["firstSeen"], by_body[b"invalid"]["lastSeen"]) == (NOW, NOW + 9)


class StoreThatWasAway:
    """Loses its first writes as a store does that dies before or after they took effect."""

    def __init__(self, real: DeadLetterStore, *, outages: int) -> None:
        self.real, self.outages = real, outages

    async def record(self, letters: Sequence[LetterRecord], left: Mapping[str, int]) -> list[RecordResult]:
        self.outages -= 1
        if self.outages >= 1:
            raise StoreUnavailable(store_silent())
        results = await self.real.record(letters, left)
        if self.outages == 0:
            raise StoreUnavailable(store_silent())
        return results

    async def settled(self, counts: Mapping[str, int]) -> None:
        await self.real.settled(counts)


async def test_a_replay_that_the_broker_gives_up_counts_the_replays_of_the_letter_it_came_from(
    vhost_url: str, store: Store, database: str
) -> None:
    user = urlsplit(vhost_url).username or "guest"
    async with workbench(vhost_url, store.uri, database) as bench:
        before = letter(1, replays=3, code="wrong_type")
        await LetterCollection(bench.store).insert([before])
        headers = {"cim-replay-of": before.id, "cim-replay-job": "job-1"}
        with plain(vhost_url) as channel:
            properties = pika.BasicProperties(delivery_mode=2, headers=headers, user_id=user)
            channel.basic_publish("", "cim.ingress", raw("loan_step"), properties)
            _reject_until_gone(channel, "cim.ingress")
        async with running(recorder(bench, DeadLetterStore(bench.store), trusted={user}).run()):
            found = await eventually_async(
                lambda: bench.store.collection("dead_letters").find_one({"replayOf": before.id}), "the successor"
            )

    assert (found["code"], found["replays"], found["replayJob"]) == ("delivery_limit", 3, "job-1")


def _reject_until_gone(channel: Channel, queue: str) -> None:
    """Hand the one message of a queue back until the broker gives it up."""
    for _ in range(50):
        method, _, _ = channel.basic_get(queue)
        if method is None:
            return
        channel.basic_reject(method.delivery_tag, requeue=True)
    raise AssertionError(queue)


async def test_while_the_store_is_away_letters_wait_in_the_queue_and_are_still_counted_once(
    vhost_url: str, store: Store, database: str
) -> None:
    """The last write that fails took effect: its letters come again, and are known."""
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, *(str(number % 10).encode() for number in range(20)))
        letters = StoreThatWasAway(DeadLetterStore(bench.store), outages=3)
        async with at_work(bench, letters):
            await eventually_async(lambda: letters.outages < 0 and depth(vhost_url, QUEUE) == 0)
            await eventually_async(lambda: {one["unsettled"] for one in recorded(store, database)} == {0})
    assert {one["body"]: one["count"] for one in recorded(store, database)} == {
        str(number).encode(): 2 for number in range(10)
    }


class Away:
    """A store that is away, and counts how often it was asked."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    async def record(self, letters: Sequence[LetterRecord], left: Mapping[str, int]) -> list[RecordResult]:  # noqa: ARG002 - the port's names
        self.asked += 1
        raise self.error

    async def settled(self, counts: Mapping[str, int]) -> None:  # noqa: ARG002 - as above
        raise self.error


async def test_a_store_that_is_away_leaves_no_letter_in_hand(vhost_url: str, store: Store, database: str) -> None:
    away = Away(StoreUnavailable(store_silent()))
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, b"one", b"two")
        async with at_work(bench, away):
            await eventually_async(lambda: away.asked >= 3)
            await eventually_async(lambda: depth(vhost_url, QUEUE) == 2)
    assert recorded(store, database) == []
    assert bench.reported.down == ["store store_unavailable"]


class Flawed:
    """A store whose recording has a bug that one body meets."""

    def __init__(self, real: DeadLetterStore, body: bytes) -> None:
        self.real, self.body = real, body

    async def record(self, letters: Sequence[LetterRecord], left: Mapping[str, int]) -> list[RecordResult]:
        if any(letter.body == self.body for letter in letters):
            raise KeyError(self.body)
        return await self.real.record(letters, left)

    async def settled(self, counts: Mapping[str, int]) -> None:
        await self.real.settled(counts)


async def test_an_exception_nobody_foresaw_ends_a_round_and_one_letter_never_keeps_the_others(
    vhost_url: str, store: Store, database: str
) -> None:
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, b"one", b"flawed", b"two")
        async with at_work(bench, Flawed(DeadLetterStore(bench.store), b"flawed")):
            await eventually_async(lambda: bench.reported.warnings and len(recorded(store, database)) == 2)
            await put_ours(bench, b"three")
            await eventually_async(lambda: depth(vhost_url, "cim.dead-letters.parked") == 1)
            await eventually_async(lambda: depth(vhost_url, QUEUE) == 0)
    assert {one["body"] for one in recorded(store, database) if one["status"] == "open"} == {b"one", b"two", b"three"}
    said = [facts for what, facts in bench.reported.warnings if what == "recording_interrupted"]
    assert len(said) == 1
    assert "KeyError" in str(said[0]["reason"])


async def test_a_read_back_that_fails_ends_no_job(vhost_url: str, store: Store, database: str) -> None:
    """The store finds a letter's key taken and refuses to say by what."""
    with wire.wire_proxy(store.uri) as proxy:
        async with workbench(vhost_url, proxy.uri, database) as bench:
            await put_ours(bench, b"one")
            async with at_work(bench):
                await eventually_async(lambda: bench.reported.done["letters"] == 1)
                refusing = proxy.on("find", collection="dead_letters", answer=wire.error(8, "UnknownError"))
                await put_ours(bench, b"one", b"two")
                await eventually_async(lambda: refusing.count >= 3)
                refusing.end()
                await eventually_async(lambda: depth(vhost_url, QUEUE) == 0)
                await eventually_async(lambda: {one["unsettled"] for one in recorded(store, database)} == {0})
    assert {one["body"]: one["count"] for one in recorded(store, database)} == {b"one": 2, b"two": 1}


async def test_a_letter_that_fails_for_an_unknown_reason_waits_until_the_store_has_taken_another(
    broker: Broker, vhost_url: str, store: Store, database: str
) -> None:
    """Alone, nobody can tell whether it is the letter or a full disk: parked, it would be listed nowhere."""
    # With a limit older RabbitMQ, too, returns a letter to the head of the queue, as 4.3 always does.
    broker.management.set_policy(vhost_url.rpartition("/")[2], "head", f"^{QUEUE}$", {"delivery-limit": 1000})
    with wire.wire_proxy(store.uri) as proxy:
        async with workbench(vhost_url, proxy.uri, database) as bench:
            failing = wire.write_error(8, lambda document: document["code"] == "foreign_letter")
            sick = proxy.on("insert", collection="dead_letters", answer=failing)
            put_strange(vhost_url, b"strange")
            async with at_work(bench):
                await eventually_async(lambda: sick.count >= 5)
                assert depth(vhost_url, "cim.dead-letters.parked") == 0
                assert [what for what, _ in bench.reported.warnings] == ["recording_interrupted"]
                await put_ours(bench, b"one")
                await eventually_async(lambda: depth(vhost_url, "cim.dead-letters.parked") == 1)
                await eventually_async(lambda: depth(vhost_url, QUEUE) == 0)
    assert [one["body"] for one in recorded(store, database)] == [b"one"]


async def test_a_letter_too_large_for_a_document_waits_until_it_can_be_listed(
    vhost_url: str, store: Store, database: str
) -> None:
    with wire.wire_proxy(store.uri) as proxy:
        async with workbench(vhost_url, proxy.uri, database) as bench:
            sick = proxy.on("insert", collection="dead_letters", answer=wire.write_error(8))
            await put_ours(bench, b"x" * (16 * 1024 * 1024))
            async with at_work(bench):
                await eventually_async(lambda: sick.count >= 3)
                assert depth(vhost_url, "cim.dead-letters.parked") == 0
                sick.end()
                await eventually_async(lambda: depth(vhost_url, "cim.dead-letters.parked") == 1)
                await eventually_async(lambda: depth(vhost_url, QUEUE) == 0)
    assert [one["status"] for one in recorded(store, database)] == ["parked"]
