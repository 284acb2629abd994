"""How many conversations a worker opens a second, from the event in the queue to the exchange on the hub.

    python -m tests.benchmarks.lifecycle [--opens 5000] [--store memory]
    python -m tests.benchmarks.lifecycle --reconcile 10000   # how long the comparison at a start takes

One worker process, a private broker, and a store in memory unless another is named. The events wait in the queue before
the worker starts; the clock runs from its first conversation to its last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import pika
import pymongo

from tests.benchmarks import stores
from tests.services.services import private_broker
from tests.support.amqp import plain
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.conversations.conversation import Fact
from worker.conversations.lifecycle import LifecycleChange
from worker.mongo.client import connect
from worker.mongo.registry import Registry

BEFORE = 152
"""Opens a second of the consumer that handled one event at a time, with the store in memory."""
_T0 = 1_760_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opens", type=int, default=5_000)
    parser.add_argument("--reconcile", type=int, default=0, metavar="CONVERSATIONS")
    parser.add_argument("--store", choices=stores.NAMES, default=stores.fastest())
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cim-bench-lifecycle-"))
    with private_broker(chroot=None, say=print) as broker, stores.running(options.store) as store:
        world = World(broker.create_vhost("lifecycle"), store.uri, "lifecycle", folder)
        world.apply_topology()
        if options.reconcile:
            _reconcile(world, options.reconcile)
            return
        _publish(world, options.opens)
        with world.pool() as pool:
            seconds = _seconds(world, options.opens)
            pool.signal()
            pool.wait()
    rate = (options.opens - 1) / seconds
    print(f"{rate:.0f} opens/s, {rate / BEFORE:.1f} times as many as before")
    print(f"{options.opens} conversations, store: {options.store}")


def _reconcile(world: World, count: int) -> None:
    """Print how long a start takes to make every exchange, and how long the next start takes to find all in order."""
    asyncio.run(_open(world, count))
    for exchanges in ("missing", "there"):
        with world.pool() as pool:
            (line,) = pool.wait_for("exchanges_reconciled", seconds=120)
            print(f"{line['active']} active conversations, exchanges {exchanges}: {line['seconds']} s")
            pool.signal()
            pool.wait()


async def _open(world: World, count: int) -> None:
    store = connect(world.mongodb_uri, world.database)
    at = time.time_ns() // 1_000_000
    changes = [LifecycleChange(f"c-{number}", "opened", at, state=Fact("ACTIVE", at)) for number in range(count)]
    for start in range(0, count, 500):
        await Registry(store).apply_each(changes[start : start + 500])
    await store.close()


def _publish(world: World, count: int) -> None:
    with plain(world.amqp_url) as channel:
        for number in range(count):
            event = {
                "name": "TOPIC_STATE_CHANGED",
                "timestamp": _T0,
                "data": {"id": f"conversation-{number}", "state": "ACTIVE", "customer": {"_id": f"customer-{number}"}},
            }
            body = json.dumps(event).encode()
            channel.basic_publish("cim.conversation-events", "any", body, pika.BasicProperties(delivery_mode=2))


def _seconds(world: World, count: int) -> float:
    """Return the seconds from the first conversation in the registry until the queue is empty and all is settled."""
    with pymongo.MongoClient[dict[str, object]](world.mongodb_uri) as client:
        records = client[world.database]["conversations"]
        eventually(records.find_one, "the first conversation", 60)
        started = time.perf_counter()
        eventually(lambda: records.count_documents({}) >= count, "all conversations", 600)
        last = f"conversation-{count - 1}"
        eventually(lambda: _is_bound(world, last), "the last exchange", 60)
        return time.perf_counter() - started


def _is_bound(world: World, conversation_id: str) -> bool:
    with plain(world.amqp_url) as channel:
        try:
            channel.exchange_declare(f"conversation.{conversation_id}", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True


if __name__ == "__main__":
    main()
