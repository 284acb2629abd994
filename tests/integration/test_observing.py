"""What is looked at from outside the work: the queues of a real broker and the letters of a real store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.contract.store.examples import NOW, letter
from tests.support.amqp import connected, plain
from tests.support.deliveries import FakeClock
from worker.mongo.client import connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.ops.metrics import Metrics
from worker.process.observing import LetterObserver, QueueObserver
from worker.rabbit.topology import apply, wanted
from worker.settings import load_settings

if TYPE_CHECKING:
    from tests.services.services import Store


async def test_open_letters_are_counted_by_code_and_the_oldest_tells_its_age(store: Store, database: str) -> None:
    client, metrics, clock = connect(store.uri, database), Metrics(), FakeClock()
    letters = DeadLetterStore(client)
    clock.ms = NOW + 90_000
    old = replace(letter(3, code="store_refused"), first_seen=NOW - 10_000)
    await letters.record([letter(1), letter(2), old, letter(4, status="discarded")], {})
    seen = await LetterObserver(letters, metrics, clock)._look()
    assert sorted(seen["cim_open_letters"]) == [[["malformed_json"], 2], [["store_refused"], 1]]
    assert seen["cim_oldest_open_letter_seconds"] == [[[], 100.0]]
    await client.close()


async def test_without_the_management_api_the_broker_tells_ready_messages_and_consumers(vhost_url: str) -> None:
    settings = load_settings(rabbitmq_url=vhost_url, retry_delays="1s,10s")
    async with connected(vhost_url) as connection:
        await apply(connection, wanted((("1s", 1),), 20, connection.server_version))
        with plain(vhost_url) as channel:
            channel.basic_publish("", "cim.ingress.waiting", b"1")
            seen = await QueueObserver(connection, settings, Metrics(), FakeClock())._look()
    depths = {labels[0]: count for labels, count in seen["cim_queue_messages"]}
    assert depths["cim.ingress.waiting"] == 1
    assert depths["cim.ingress.retry.1s"] == 0
    assert "cim.ingress.retry.10s" not in depths, "a queue that is missing costs no other's number"
    assert [["cim.ingress"], 0] in seen["cim_queue_consumers"]
