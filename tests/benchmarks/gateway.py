"""The gateway's throughput, beside the same endpoint as it is usually written. `python -m tests.benchmarks.gateway`.

Gateway, broker and load share the machine. Each contender gets the same 1 KiB messages over kept-alive connections, in
turn, in rounds; the table has the median of the rounds. Exit code 1 when the target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.benchmarks.http_load import install_wrk, run
from tests.services.processes import free_ports
from tests.services.services import private_broker
from tests.support.amqp import plain
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually
from tests.support.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.broker import LocalBroker

TARGET_PER_SECOND = 3_000
_CONTENDERS = {
    "cim-worker gateway": (COMMAND, "gateway"),
    "Starlette, aio-pika, as usual": (sys.executable, "-m", "tests.benchmarks.rivals.gateway_usual", "{port}"),
}


@dataclass(frozen=True)
class Figures:
    """One contender in one round."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of the contender per request."""
    broker_us: float
    load_us: float
    others: float
    """Share of the machine that went to none of the three."""


@contextlib.contextmanager
def _contender(command: tuple[str, ...], url: str, folder: Path) -> Iterator[Gateway]:
    port = free_ports(1)[0]
    one = Gateway(port, folder / f"{port}.log")
    settings = {"CIM_RABBITMQ_URL": url, "CIM_GATEWAY_PORT": str(port), "CIM_HTTP_PORT": "0"}
    with running(*(part.format(port=port) for part in command), log=one.log, **settings) as process:
        one.process = process
        eventually(lambda: not one.reasons_not_ready(), str(one.log))
        yield one


def _measure(
    command: tuple[str, ...], url: str, folder: Path, broker: LocalBroker, connections: int, seconds: float
) -> Figures:
    with plain(url) as channel:
        channel.queue_purge("cim.ingress")
    with _contender(command, url, folder) as one:
        run(one.port, connections, 1)  # warm
        ours, brokers = Spent(one.process.pid), Spent(broker.pid)
        machine = _busy_seconds()
        load = run(one.port, connections, seconds)
        taken = ours.seconds(), brokers.seconds(), load.cpu_seconds
        others = _busy_seconds() - machine - sum(taken)
    assert (load.refused, load.failed) == (0, 0), load
    own, brokers_own, loads_own = (1e6 * one / load.requests for one in taken)
    share = max(0.0, others / load.seconds / (os.cpu_count() or 1))
    return Figures(load.per_second, load.p50_ms, load.p99_ms, own, brokers_own, loads_own, share)


class Spent:
    """Processor time of one process, from now on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._now()

    def seconds(self) -> float:
        return self._now() - self._before

    def _now(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    install_wrk()
    measured: dict[str, list[Figures]] = {name: [] for name in _CONTENDERS}
    with private_broker() as broker, tempfile.TemporaryDirectory() as folder:
        url = broker.create_vhost("bench-gateway")
        assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url).returncode == 0
        for _ in range(options.rounds):
            for name, command in _CONTENDERS.items():
                figures = _measure(command, url, Path(folder), broker, options.connections, options.seconds)
                measured[name].append(figures)
                print(name, figures, f"load average {os.getloadavg()[0]:.1f}", flush=True)
    print("| Endpoint | requests/s | p50 | p99 | processor time per request | of the broker | of the load | others |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, rounds in measured.items():
        middle = [statistics.median(getattr(one, field) for one in rounds) for field in Figures.__dataclass_fields__]
        print(
            "| {} | {:,.0f} | {:.0f} ms | {:.0f} ms | {:.0f} µs | {:.0f} µs | {:.0f} µs | {:.0%} |".format(
                name, *middle
            )
        )
    ours = statistics.median(one.per_second for one in measured["cim-worker gateway"])
    return 0 if ours >= TARGET_PER_SECOND else 1


if __name__ == "__main__":
    sys.exit(main())
