"""Receipts through a real broker that closes their channel, or blocks publishers: the job does not feel it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import pika

from tests.support.amqp import connected, depth, drained, gathered, plain
from tests.support.deliveries import RecordingReporter, delivery
from tests.support.eventually import eventually_async
from tests.support.worker_pool import World
from tests.unit.test_settlement import body_of
from worker.cim import Identity
from worker.flow.backoff import Backoff
from worker.outcome import Outcome
from worker.pipeline.receipts import Receipts
from worker.pipeline.settlement import Settled
from worker.process.clock import SystemClock
from worker.process.worker import Worker
from worker.rabbit.receipts import ReceiptPublisher
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Store

QUEUE = "cim.receipts.app"


async def test_a_channel_that_ends_is_replaced_and_costs_no_receipt(vhost_url: str) -> None:
    with plain(vhost_url) as channel:
        channel.queue_declare(QUEUE, durable=True)
    reported = RecordingReporter()
    receipts = Receipts(
        queues=r"^cim\.receipts\.",
        clock=SystemClock(),
        reporter=reported,
        new_backoff=lambda: Backoff(0.01, 0.01, random=lambda: 0.0),
    )
    opened: list[ReceiptPublisher] = []

    def tell(number: int) -> None:
        receipts.settled(Settled(delivery(reply_to=QUEUE), Identity(message_id=str(number)), Outcome.STORED))

    async with contextlib.AsyncExitStack() as connections:

        async def open_channel() -> ReceiptPublisher:
            connection = await connections.enter_async_context(connected(vhost_url))
            opened.append(await ReceiptPublisher.open(connection, user_id=None, count=reported.receipts))
            return opened[-1]

        running = asyncio.create_task(receipts.run(open_channel, lambda: True))
        tell(1)
        await eventually_async(lambda: reported.receipt_results == {"sent": 1})
        opened[0]._channel.raw.basic_publish("no such exchange", "", b"")  # the broker closes the channel: 404
        await eventually_async(opened[0]._channel.closed.done)
        tell(2)
        await eventually_async(lambda: reported.receipt_results == {"sent": 2})
        await receipts.finish(running, lambda: True)
    assert len(opened) == 2
    assert not opened[0]._connection.is_open, "nothing is left of it"
    assert [name for name, _ in reported.warnings] == ["receipts_interrupted"]
    assert [json.loads(body)["messageId"] for *_, body in drained(vhost_url, QUEUE)] == ["1", "2"]


async def test_while_the_broker_blocks_publishers_receipts_wait_and_the_job_does_not(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(breakable_broker.create_vhost(f"blocked-{uuid.uuid4().hex}"), store.uri, database, tmp_path)
    await asyncio.to_thread(world.apply_topology)
    worker = Worker(
        load_settings(rabbitmq_url=world.amqp_url, mongodb_uri=store.uri, mongodb_database=database, retry_delays="1s")
    )
    running = asyncio.create_task(worker.run())
    with contextlib.ExitStack() as stack:
        stack.callback(worker.stop)
        stack.callback(lambda: breakable_broker.set_memory_alarm(False))
        await eventually_async(lambda: all(check.passed for check in worker.report().checks), "it consumes")
        with plain(world.amqp_url) as channel:  # the broker itself brings them to ingress, alarm or not
            channel.queue_declare(QUEUE, durable=True)
            for number in range(50):
                properties = pika.BasicProperties(delivery_mode=2, reply_to=QUEUE)
                channel.basic_publish("", "cim.ingress.retry.1s", body_of(str(number)), properties)
        breakable_broker.set_memory_alarm(True)
        await eventually_async(lambda: worker._metrics.outcomes()["stored"] == 50, "all stored, alarm or not")
        await eventually_async(lambda: depth(world.amqp_url, "cim.ingress") == 0, "and acknowledged")
        assert not worker._metrics.receipts
        assert depth(world.amqp_url, QUEUE) == 0
        breakable_broker.set_memory_alarm(False)
        receipts: list[Any] = await asyncio.to_thread(gathered, world.amqp_url, QUEUE, 50)
        assert {json.loads(body)["messageId"] for *_, body in receipts} == {str(number) for number in range(50)}
        await eventually_async(lambda: worker._metrics.receipts == {"sent": 50})
    await running
