"""What an ingress in 1, 2, 4 and 8 partitions moves, on one node and on three: in the broker alone, and with workers.

    make partitions-bench [ARGS="--messages 20000 --root /path --nodes 3 --processes 2 --order both --rounds 3"]

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
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from tests.benchmarks.contenders import ours
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

    from tests.benchmarks.contenders import Running
    from tests.services.broker import LocalBroker

_PARTITIONS = (0, 1, 2, 4, 8)
_AT_ONCE = 1000
_BODY = bytes(1024)
_WINDOW = 2000
_CONVERSATIONS = 200
_WARM_SHARE = 0.1
_POLL_SECONDS = 0.02
_STUCK_SECONDS = 60.0
_SETTINGS = {"CIM_LOG_LEVEL": "warning", "CIM_HTTP_PORT": "0", "CIM_CONVERSATION_EVENTS": "false"}
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


class Worked(NamedTuple):
    """How a pool worked a backlog off."""

    rate: float
    """Events that arrived a second."""
    cpu_us: float
    """Processor microseconds of the pool for each."""


def _with_workers(
    broker: Node, store_uri: str, partitions: int, messages: int, *, processes: int, ordered: bool
) -> Worked:
    """Work a backlog off. Raises RuntimeError when it does not end."""
    divided: Any = {"partitions": partitions, "ordered": ordered}
    with Stage(cast("LocalBroker", broker), store_uri, conversations=_CONVERSATIONS, **divided) as stage:
        keys = itertools.cycle(place.conversation_id for place in stage.live)
        prepared = prepare(0, messages, [Kind.LIVE], live=stage.live, closed=stage.closed)

        def publish(run: Sequence[Outgoing]) -> None:
            asyncio.run(_publish(stage.url, [one._replace(exchange=INGRESS, routing_key=next(keys)) for one in run]))

        stage.fill(prepared, publish=publish)
        with ours(processes, {}, **{**_SETTINGS, "CIM_INGRESS_ORDER": str(ordered).lower()}).running(stage) as running:
            return _worked(stage, running, messages)  # its virtual host goes with the broker: deleting it takes long


async def _publish(url: str, run: Sequence[Outgoing]) -> None:
    async with connected(url) as connection:
        publisher = await Publisher.open(connection)
        assert set(await publisher.publish(run)) <= {Confirmation.CONFIRMED}


def _worked(stage: Stage, running: Running, messages: int) -> Worked:
    start = _when(stage, running, int(messages * _WARM_SHARE))
    end = _when(stage, running, messages)
    done = end.done - start.done
    return Worked(done / (end.at - start.at), (end.cpu - start.cpu) / done * 1e6)


class _Moment(NamedTuple):
    at: float
    done: int
    cpu: float


def _when(stage: Stage, running: Running, messages: int) -> _Moment:
    """Wait until so many events have arrived. Raises RuntimeError when nothing moves any more."""
    done, moved = -1, time.perf_counter()
    while True:
        now, before, done = time.perf_counter(), done, stage.arrived()
        if done >= messages:
            return _Moment(now, done, running.cpu_seconds())
        if done != before:
            moved = now
        complaint = running.complaint()
        if complaint or now - moved > _STUCK_SECONDS:
            msg = f"{done} of {messages} arrived: {complaint or 'no progress'}"
            raise RuntimeError(msg)
        time.sleep(_POLL_SECONDS)


# -- rounds --------------------------------------------------------------------------------------------------------


class _Rounds:
    """What was measured of one number of partitions, with order or without, over all rounds."""

    def __init__(self) -> None:
        self.published: list[float] = []
        self.taken: list[float] = []
        self.worked: list[Worked] = []

    def row(self, partitions: int, *, ordered: bool) -> str:
        rates = [one.rate for one in self.worked]
        cells = (
            str(partitions or "none"),
            "kept" if ordered else "",
            f"{median(self.published):,.0f}",
            f"{median(self.taken):,.0f}",
            f"{median(rates):,.0f} ({min(rates):,.0f} - {max(rates):,.0f})",
            f"{median(one.cpu_us for one in self.worked):.1f}",
            f"{os.getloadavg()[0]:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def _measure(broker: Node, store_uri: str, options: argparse.Namespace) -> None:
    """Measure every variant once in each round, one after the other, and print a row for each."""
    orders = {"off": (False,), "on": (True,), "both": (False, True)}[options.order]
    variants = [(partitions, ordered) for partitions in options.only for ordered in orders if partitions or not ordered]
    found: dict[tuple[int, bool], _Rounds] = defaultdict(_Rounds)
    for _round in range(options.rounds):
        for partitions, ordered in variants:
            one = found[partitions, ordered]
            published, taken = asyncio.run(_in_broker(broker, partitions, options.messages))
            one.published.append(published)
            one.taken.append(taken)
            worked = _with_workers(
                broker, store_uri, partitions, options.messages, processes=options.processes, ordered=ordered
            )
            one.worked.append(worked)
            print(f"partitions {partitions}, order {ordered}: {published:,.0f} {taken:,.0f} {worked}", file=sys.stderr)
    print("| partitions | order | published/s | taken/s | live with workers/s | their processor time, µs | load |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for (partitions, ordered), one in found.items():
        print(one.row(partitions, ordered=ordered))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--root", type=Path, help="root file system of another RabbitMQ")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--processes", type=int, default=2, help="of the pool (default: %(default)s)")
    parser.add_argument(
        "--order", choices=("off", "on", "both"), default="off", help="whether that of each key is kept"
    )
    parser.add_argument("--only", type=int, nargs="*", default=_PARTITIONS, help="numbers of partitions; 0: undivided")
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many, interleaved (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _broker(options.nodes, options.root) as broker:
        store = embedded_store(Path(folder))
        store.start()
        try:
            print(
                f"{options.messages} messages of 1 KiB, {options.nodes} node(s), {options.processes} worker processes"
            )
            _measure(broker, store.uri, options)
        finally:
            store.stop()


if __name__ == "__main__":
    main()
