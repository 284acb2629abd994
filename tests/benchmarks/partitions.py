"""What one node does with an ingress in 1, 2, 4 and 8 partitions: published, confirmed, taken and acknowledged.

    python -m tests.benchmarks.partitions [--messages 20000] [--root /path]

No worker: this is the limit inside the broker, beside which the worker's own rate is to be read. Publishers and
consumers are the worker's adapters, in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services.services import private_broker
from tests.support.amqp import connected
from worker.contract import INGRESS, ingress_queues
from worker.ports import Confirmation, Outgoing
from worker.rabbit.partitions import PartitionConsumer
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, problems, wanted

if TYPE_CHECKING:
    from tests.services.broker import LocalBroker

_PARTITIONS = (0, 1, 2, 4, 8)
_AT_ONCE = 1000
_BODY = bytes(1024)
_WINDOW = 2000


async def _fill(url: str, messages: int) -> float:
    """Publish with ever other keys and return how many were confirmed a second."""
    async with connected(url) as connection:
        publisher = await Publisher.open(connection)
        started = time.perf_counter()
        for start in range(0, messages, _AT_ONCE):
            keys = [str(number) for number in range(start, min(messages, start + _AT_ONCE))]
            confirmations = await publisher.publish([Outgoing(INGRESS, key, key, _BODY) for key in keys])
            assert set(confirmations) == {Confirmation.CONFIRMED}
        return messages / (time.perf_counter() - started)


async def _drain(url: str, partitions: int, messages: int) -> float:
    """Take and acknowledge all of them and return how many a second."""
    queues = ingress_queues(partitions)[1:] or (INGRESS,)
    async with connected(url) as connection:
        consumer = await PartitionConsumer.open(connection, queues, time.monotonic)
        started = time.perf_counter()
        await consumer.start(_WINDOW)
        left = messages
        while left:
            await consumer.wait_for_arrival()
            for delivery in consumer.take(200, 1 << 30):
                consumer.settle(delivery)
                left -= 1
        rate = messages / (time.perf_counter() - started)
        await consumer.close()
        return rate


async def _measure(broker: LocalBroker, partitions: int, messages: int) -> tuple[float, float]:
    url = broker.create_vhost(f"partitions-{partitions}")
    async with connected(url) as connection:
        topology = wanted((("1s", 1),), 20, connection.server_version, partitions=partitions)
        assert not list(problems(await apply(connection, topology)))
    rates = await _fill(url, messages), await _drain(url, partitions, messages)
    broker.delete_vhost(f"partitions-{partitions}")
    return rates


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--root", type=Path, help="root file system of another RabbitMQ")
    options = parser.parse_args()
    messages: int = options.messages
    with private_broker(chroot=options.root) as broker:
        print(f"RabbitMQ {broker.management.version()}, {messages} messages of 1 KiB, one node")
        print("| partitions | published/s | taken/s | load |")
        print("|---|---|---|---|")
        for partitions in _PARTITIONS:
            published, taken = asyncio.run(_measure(broker, partitions, messages))
            shown = partitions or "none"
            print(f"| {shown} | {published:,.0f} | {taken:,.0f} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
