"""The recorder on a real broker and store: letters out of the queue and into the collection, each once."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pika
import pymongo

from tests.support.amqp import depth, drained, plain
from tests.support.deliveries import NOW, delivery
from tests.support.eventually import eventually_async
from tests.support.examples import raw
from tests.support.workbench import Workbench, running, workbench
from tests.unit.test_envelope import REASON, WHO
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.recorder import DeadLetterRecorder
from worker.failure import StoreUnavailable, store_silent
from worker.mongo.dead_letters import DeadLetterStore
from worker.ports import Confirmation
from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.services.services import Store
    from worker.dead_letters.letter import LetterRecord, RecordResult
    from worker.dead_letters.recorder import LetterStore

QUEUE = "cim.dead-letters"


def recorder(bench: Workbench, consumer: Consumer, letters: LetterStore, interval_ms: int = 50) -> DeadLetterRecorder:
    return DeadLetterRecorder(
        consumer=consumer,
        letters=letters,
        publisher=bench.publisher,
        gate=bench.gate,
        interval_ms=interval_ms,
        clock=bench.clock,
        reporter=bench.reported,
        new_id=bench.new_id,
    )


@asynccontextmanager
async def at_work(bench: Workbench, letters: LetterStore | None = None) -> AsyncIterator[None]:
    consumer = await Consumer.open(bench.connection, QUEUE, time.monotonic)
    async with running(recorder(bench, consumer, letters or DeadLetterStore(bench.store)).run()):
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
    assert sorted(one["body"] for one in found) == sorted([b"one", b"two", b"three", raw("loan_step"), b"\xff\x00"])
    assert {one["code"] for one in found} == {"wrong_type", "foreign_letter"}
    assert {one["status"] for one in found} == {"dead"}
    assert depth(vhost_url, QUEUE) == 0


async def test_a_letter_larger_than_a_document_is_parked_and_listed(
    vhost_url: str, store: Store, database: str
) -> None:
    huge = b"x" * (16 * 1024 * 1024)
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, huge, b"small")
        async with at_work(bench):
            await eventually_async(lambda: bench.reported.done["letters"] == 2)
    by_status = {one["status"]: one for one in recorded(store, database)}
    assert by_status["dead"]["body"] == b"small"
    assert by_status["parked"]["body"] == b""
    assert by_status["parked"]["code"] == "wrong_type"
    ((_, properties, body),) = drained(vhost_url, "cim.dead-letters.parked")
    assert body == huge
    assert properties.headers["cim-code"] == "wrong_type"


class StoreThatWasAway:
    """Loses its first writes as a store does that dies before or after they took effect."""

    def __init__(self, real: DeadLetterStore, *, outages: int) -> None:
        self.real, self.outages = real, outages

    async def record(self, letters: Sequence[LetterRecord]) -> list[RecordResult]:
        self.outages -= 1
        if self.outages >= 1:
            raise StoreUnavailable(store_silent())
        results = await self.real.record(letters)
        if self.outages == 0:
            raise StoreUnavailable(store_silent())
        return results


async def test_while_the_store_is_away_letters_wait_and_are_still_recorded_once(
    vhost_url: str, store: Store, database: str
) -> None:
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, *(str(number).encode() for number in range(20)))
        letters = StoreThatWasAway(DeadLetterStore(bench.store), outages=3)
        async with at_work(bench, letters):
            await eventually_async(lambda: letters.outages < 0 and depth(vhost_url, QUEUE) == 0)
    assert sorted(int(one["body"]) for one in recorded(store, database)) == list(range(20))


async def test_letters_in_hand_go_back_when_the_recorder_is_stopped(
    vhost_url: str, store: Store, database: str
) -> None:
    class Away:
        async def record(self, _: Sequence[LetterRecord]) -> list[RecordResult]:
            asked.set()
            raise StoreUnavailable(store_silent())

    asked = asyncio.Event()
    async with workbench(vhost_url, store.uri, database) as bench:
        await put_ours(bench, b"one", b"two")
        async with at_work(bench, Away()):
            await asyncio.wait_for(asked.wait(), 10)
    assert recorded(store, database) == []
    await eventually_async(lambda: depth(vhost_url, QUEUE) == 2)
