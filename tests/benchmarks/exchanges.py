"""What conversations cost the broker: exchanges and bindings, up to 100 000 on one node.

    python -m tests.benchmarks.exchanges [--most 100000] [--rabbitmq-root /path] [--json FILE]

Opens conversations as a worker does (24 AMQP channels, one exchange and one binding to the hub each), with one
subscriber's binding for each of them, and measures at every mark: openings a second since the last one, the node's
resident memory, and confirmed publishes to random ones. At the end 1 000 conversations are closed, and the node is
restarted with all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pika.exceptions import AMQPError

from tests.services.broker import BrokerStartError
from tests.services.services import private_broker
from tests.support.amqp import plain
from tests.support.eventually import eventually
from worker import contract
from worker.ports import Confirmation, Outgoing
from worker.rabbit.connection import Connection
from worker.rabbit.exchanges import ConversationExchanges
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.services.broker import LocalBroker

MARKS: Final = (0, 1_000, 10_000, 25_000, 50_000, 100_000, 200_000)
_RUN: Final = 500
"""Conversations opened with one call, as the lifecycle consumer does."""
_PUBLISHED: Final = 5_000
_CLOSED: Final = 1_000
_QUEUE: Final = "bench.subscriber"
_SETTLE_SECONDS: Final = 3.0
_RESTART_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What was measured with so many conversations open."""

    conversations: int
    opened_per_second: float
    """Since the mark before, an exchange and its binding to the hub each."""
    bound_per_second: float
    """Bindings of subscribers, on as many channels."""
    resident_mib: float
    published_per_second: float
    """Confirmed, to ever different ones of them."""
    broker_cpu_us: float
    """Processor time of the node for each of these publishes: says more than the rate where cores are shared."""


async def measure(broker: LocalBroker, url: str, most: int) -> list[Mark]:
    """Open conversations up to *most* and return what was measured at each mark."""
    connection = await Connection.open(url, name="bench exchanges")
    await apply(connection, wanted((("1s", 1),), 20, connection.server_version))
    with plain(url) as channel:
        channel.queue_declare(_QUEUE, durable=True)
    found, done = [], 0
    for mark in (one for one in MARKS if one <= most):
        names = [f"conversation-{number:08d}" for number in range(done, mark)]
        opened = await _opened(connection, names)
        bound = await _bound(connection, names)
        await asyncio.sleep(_SETTLE_SECONDS)  # the node gives memory back when it has nothing to do
        resident = _resident_mib(broker.pid)
        used = _cpu_seconds(broker.pid)
        published = await _published(connection, mark) if mark else 0.0
        cpu_us = (_cpu_seconds(broker.pid) - used) / _PUBLISHED * 1e6 if mark else 0.0
        found.append(Mark(mark, opened, bound, resident, published, cpu_us))
        print(f"  {found[-1]}", flush=True)
        done = mark
    await connection.close()
    return found


async def close_some(url: str, most: int) -> float:
    """Close conversations as the lifecycle consumer and the reaper do; return how many a second."""
    names = [f"conversation-{number:08d}" for number in range(most - _CLOSED, most)]
    connection = await Connection.open(url, name="bench exchanges")
    exchanges = ConversationExchanges(connection)
    started = time.perf_counter()
    for answers in (await exchanges.unbind(names), await exchanges.delete(names)):
        assert not any(answers)
    seconds = time.perf_counter() - started
    await connection.close()
    return len(names) / seconds


async def _opened(connection: Connection, names: Sequence[str]) -> float:
    exchanges = ConversationExchanges(connection)
    started = time.perf_counter()
    for start in range(0, len(names), _RUN):
        assert not any(await exchanges.open(names[start : start + _RUN]))
    return len(names) / (time.perf_counter() - started) if names else 0.0


async def _bound(connection: Connection, names: Sequence[str]) -> float:
    waiting = list(names)

    async def bind_some() -> None:
        channel = await connection.channel()
        while waiting:
            await channel.call("queue_bind", _QUEUE, contract.conversation_exchange(waiting.pop()), routing_key="")
        await channel.close()

    started = time.perf_counter()
    await asyncio.gather(*(bind_some() for _ in range(24)))
    return len(names) / (time.perf_counter() - started) if names else 0.0


async def _published(connection: Connection, open_now: int) -> float:
    publisher = await Publisher.open(connection)
    started = time.perf_counter()
    for start in range(0, _PUBLISHED, _RUN):
        numbers = ((start + one) * 7919 % open_now for one in range(_RUN))
        run = [Outgoing(contract.HUB, f"conversation-{number:08d}", "x", b"x" * 1024) for number in numbers]
        assert set(await publisher.publish(run)) == {Confirmation.CONFIRMED}
    seconds = time.perf_counter() - started
    await publisher.close()
    return _PUBLISHED / seconds


def _resident_mib(pid: int) -> float:
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def restart(broker: LocalBroker, url: str) -> float:
    """Stop the node in good order and start it; return the seconds from the start until it takes connections."""
    broker.stop()
    started = time.perf_counter()
    with contextlib.suppress(BrokerStartError):  # it takes longer than tests have patience, and goes on
        broker.start()
    eventually(lambda: _connects(url), "a connection", _RESTART_SECONDS)
    return time.perf_counter() - started


def _connects(url: str) -> bool:
    try:
        with plain(url):
            return True
    except (AMQPError, OSError):
        return False


def main() -> int:
    """Measure and print the table."""
    options = _options()
    with private_broker(chroot=options.rabbitmq_root) as broker:
        version = broker.management.version()
        url = broker.create_vhost("exchanges")
        marks = asyncio.run(measure(broker, url, options.most))
        closed = asyncio.run(close_some(url, marks[-1].conversations))
        restarted = restart(broker, url)
    base = marks[0].resident_mib
    print(f"\nRabbitMQ {version}\n")
    print("| conversations | opened/s | bound/s | resident MiB | kB each | published/s | µs broker CPU |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for one in marks:
        each = (one.resident_mib - base) * 1024 / one.conversations if one.conversations else 0.0
        figures = (one.opened_per_second, one.bound_per_second, one.resident_mib)
        cells = [f"{one.conversations:,}", *(f"{figure:,.0f}" for figure in figures), f"{each:.1f}"]
        cells += [f"{one.published_per_second:,.0f}", f"{one.broker_cpu_us:,.0f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\nclosed {closed:,.0f}/s with all of them there; the node restarted in {restarted:.0f} s")
    if options.json:
        facts = {"version": version, "marks": [asdict(one) for one in marks], "closed": closed, "restarted": restarted}
        options.json.write_text(json.dumps(facts, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000, help="conversations, at most (default: %(default)s)")
    parser.add_argument("--rabbitmq-root", type=Path, help="root file system of another RabbitMQ (needs root rights)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
