"""A broker that blocks publishers for long: what is in hand goes back to it, once, and is done when it is over."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import pika

from tests.support.amqp import depth, plain
from tests.support.eventually import eventually_async
from tests.support.worker_pool import World
from worker.process import broker_session as module
from worker.process.worker import Worker
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.services.broker import LocalBroker
    from tests.services.services import Store

COUNT = 10


def live(number: int) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "conversationId": "c-1"}
    return json.dumps({"id": f"m-{number}", "header": header, "body": {"type": "PLAIN"}}).encode()


async def test_nothing_stays_in_hand_behind_a_broker_that_blocks_publishers_for_long(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_BLOCKED_SECONDS", 1.0)
    monkeypatch.setattr(module, "_BLOCKED_CHECK_SECONDS", 0.1)
    world = World(breakable_broker.create_vhost(f"blocked-{uuid.uuid4().hex}"), store.uri, database, tmp_path)
    await asyncio.to_thread(world.apply_topology)
    settings = load_settings(
        rabbitmq_url=world.amqp_url, mongodb_uri=store.uri, mongodb_database=database, retry_delays="1s"
    )
    worker = Worker(settings)
    running = asyncio.create_task(worker.run())
    try:
        await eventually_async(lambda: all(check.passed for check in worker.report().checks), "it consumes")
        with plain(world.amqp_url) as channel:  # the broker itself brings them to ingress, alarm or not
            for number in range(COUNT):
                channel.basic_publish("", "cim.ingress.retry.1s", live(number), pika.BasicProperties(delivery_mode=2))
        breakable_broker.set_memory_alarm(True)
        await eventually_async(lambda: worker._metrics.publisher_blocked, "publishes are blocked")
        await eventually_async(lambda: depth(world.amqp_url, "cim.ingress") == COUNT, "all handed back")
        breakable_broker.set_memory_alarm(False)
        await eventually_async(lambda: len(world.collection("ConversationActivities")) == COUNT, "all done", 60)
        assert depth(world.amqp_url, "cim.ingress") == 0
    finally:
        breakable_broker.set_memory_alarm(False)
        worker.stop()
        await running
