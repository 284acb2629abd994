"""What an ingress in 1, 2, 4 and 8 partitions moves, on one node and on three: in the broker alone, and with workers.

    make partitions-bench [ARGS="--messages 20000 --root /path --nodes 3 --processes 2 --order"]

In the broker alone is the limit beside which the workers' rate is to be read: published and confirmed, then taken and
acknowledged, by the worker's adapters in one process. With workers one pool works off a backlog of live messages;
the clock starts when a tenth of it is over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tests.benchmarks.messages import Kind, prepare
from tests.benchmarks.stage import Stage
from tests.services.cluster import LocalCluster
from tests.services.services import private_broker
from tests.services.store import embedded_store
from tests.support.amqp import connected
from worker.contract import INGRESS, ingress_queues
from worker.ports import Confirmation, Outgoing
from worker.rabbit.partitions import PartitionConsumer
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, problems, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.services.broker import LocalBroker

_PARTITIONS = (0, 1, 2, 4, 8)
_AT_ONCE = 1000
_BODY = bytes(1024)
_WINDOW = 2000
_CONVERSATIONS = 200
_WARM_SHARE = 0.1
_POLL_SECONDS = 0.02
_STUCK_SECONDS = 60.0
_PLUGINS = ("rabbitmq_consistent_hash_exchange",)


class Node(Protocol):
    """Where virtual hosts are made."""

    def create_vhost(self, name: str) -> str:
        """Make one and return its address."""

    def delete_vhost(self, name: str) -> None:
        """Delete one."""


class FirstOf:
    """A cluster whose clients all connect to the first node: leaders are on all three."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster

    def create_vhost(self, name: str) -> str:
        """Make one and return its address on the first node."""
        return self.cluster.create_vhost(name).split(",")[0]

    def delete_vhost(self, name: str) -> None:
        """Delete one."""
        self.cluster.delete_vhost(name)


@contextlib.contextmanager
def _broker(nodes: int, root: Path | None) -> Iterator[Node]:
    if nodes == 1:
        with private_broker(chroot=root) as broker:
            yield broker
    else:
        with LocalCluster(chroot=root, plugins=_PLUGINS) as cluster:
            yield FirstOf(cluster)


# -- in the broker alone -------------------------------------------------------------------------------------------


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


async def _in_broker(broker: Node, partitions: int, messages: int) -> tuple[float, float]:
    name = f"partitions-{partitions}"
    url = broker.create_vhost(name)
    async with connected(url) as connection:
        topology = wanted((("1s", 1),), 20, connection.server_version, partitions=partitions)
        nodes = [connection]
        assert not list(problems(await apply(connection, topology, nodes=nodes)))
    rates = await _fill(url, messages), await _drain(url, partitions, messages)
    broker.delete_vhost(name)
    return rates


# -- with workers --------------------------------------------------------------------------------------------------


def _with_workers(
    broker: Node, store_uri: str, partitions: int, messages: int, *, processes: int, ordered: bool
) -> float:
    """Work a backlog off and return how many events arrived a second. Raises RuntimeError when it does not end."""
    divided: Any = {"partitions": partitions, "ordered": ordered}
    with Stage(cast("LocalBroker", broker), store_uri, conversations=_CONVERSATIONS, **divided) as stage:
        keys = itertools.cycle(place.conversation_id for place in stage.live)
        prepared = prepare(0, messages, [Kind.LIVE], live=stage.live, closed=stage.closed)

        def publish(run: Sequence[Outgoing]) -> None:
            asyncio.run(_publish(stage.url, [one._replace(exchange=INGRESS, routing_key=next(keys)) for one in run]))

        stage.fill(prepared, publish=publish)
        with _pool(stage, processes, ordered=ordered):
            return _rate(stage, messages)  # its virtual host goes with the broker: to delete its exchanges takes long


async def _publish(url: str, run: Sequence[Outgoing]) -> None:
    async with connected(url) as connection:
        publisher = await Publisher.open(connection)
        assert set(await publisher.publish(run)) <= {Confirmation.CONFIRMED}


@contextlib.contextmanager
def _pool(stage: Stage, processes: int, *, ordered: bool) -> Iterator[None]:
    settings = {
        "CIM_LOG_LEVEL": "warning",
        "CIM_HTTP_PORT": "0",
        "CIM_INGRESS_ORDER": str(ordered).lower(),
        "CIM_CONVERSATION_EVENTS": "false",
        **stage.environment,
    }
    command = [sys.executable, "-m", "worker", "run", "--processes", str(processes)]
    process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _rate(stage: Stage, messages: int) -> float:
    began, done, moved = 0.0, 0, time.perf_counter()
    warm = 0
    while done < messages:
        now, before, done = time.perf_counter(), done, stage.arrived()
        if done != before:
            moved = now
        elif now - moved > _STUCK_SECONDS:
            msg = f"{done} of {messages} arrived"
            raise RuntimeError(msg)
        if not began and done >= messages * _WARM_SHARE:
            began, warm = now, done
        time.sleep(_POLL_SECONDS)
    return (messages - warm) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--root", type=Path, help="root file system of another RabbitMQ")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--processes", type=int, default=2, help="of the pool (default: %(default)s)")
    parser.add_argument("--order", action="store_true", help="keep the order of each key")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of partitions; 0: undivided")
    options = parser.parse_args()
    messages: int = options.messages
    with tempfile.TemporaryDirectory() as folder, _broker(options.nodes, options.root) as broker:
        store = embedded_store(Path(folder))
        store.start()
        try:
            print(f"{messages} messages of 1 KiB, {options.nodes} node(s), {options.processes} worker processes")
            print("| partitions | published/s | taken/s | live with workers/s | load |")
            print("|---|--:|--:|--:|--:|")
            for partitions in options.only or (_PARTITIONS[1:] if options.order else _PARTITIONS):
                published, taken = asyncio.run(_in_broker(broker, partitions, messages))
                live = _with_workers(
                    broker, store.uri, partitions, messages, processes=options.processes, ordered=options.order
                )
                load = os.getloadavg()[0]
                shown = partitions or "none"
                print(f"| {shown} | {published:,.0f} | {taken:,.0f} | {live:,.0f} | {load:.1f} |", flush=True)
        finally:
            store.stop()


if __name__ == "__main__":
    main()
