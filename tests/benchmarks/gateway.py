"""The gateway's throughput, beside the same endpoint as it is usually written. `python -m tests.benchmarks.gateway`.

Gateway, broker and load share the machine. Each contender gets the same 1 KiB messages over kept-alive connections, in
turn, in rounds; the table has the median of the rounds. Exit code 1 when the target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.services.processes import free_ports
from tests.services.services import private_broker
from tests.support.amqp import plain
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually
from tests.support.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def _contender(command: tuple[str, ...], url: str, folder: Path) -> Iterator[Gateway]:
    port = free_ports(1)[0]
    one = Gateway(port, folder / f"{port}.log")
    settings = {"CIM_RABBITMQ_URL": url, "CIM_GATEWAY_PORT": str(port), "CIM_HTTP_PORT": "0"}
    with running(*(part.format(port=port) for part in command), log=one.log, **settings) as process:
        one.process = process
        eventually(lambda: not one.reasons_not_ready(), str(one.log))
        yield one


def _measure(command: tuple[str, ...], url: str, folder: Path, connections: int, seconds: float) -> Figures:
    with plain(url) as channel:
        channel.queue_purge("cim.ingress")
    with _contender(command, url, folder) as one:
        process = psutil.Process(one.process.pid)
        _load(one.port, connections, 1.0)  # warm
        before = sum(process.cpu_times()[:2])
        figures = _load(one.port, connections, seconds)
        spent = sum(process.cpu_times()[:2]) - before
    assert set(figures["statuses"]) == {"200"}, figures
    return Figures(
        figures["per_second"],
        figures["p50_ms"],
        figures["p99_ms"],
        1e6 * spent / figures["statuses"]["200"],
    )


def _load(port: int, connections: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.http_load", str(port)]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    finished = subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measured: dict[str, list[Figures]] = {name: [] for name in _CONTENDERS}
    with private_broker() as broker, tempfile.TemporaryDirectory() as folder:
        url = broker.create_vhost("bench-gateway")
        assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url).returncode == 0
        for _ in range(options.rounds):
            for name, command in _CONTENDERS.items():
                figures = _measure(command, url, Path(folder), options.connections, options.seconds)
                measured[name].append(figures)
                print(name, figures, f"load average {os.getloadavg()[0]:.1f}", flush=True)
    print("| Endpoint | requests/s | p50 | p99 | processor time per request |\n|---|---|---|---|---|")
    for name, rounds in measured.items():
        middle = [statistics.median(getattr(one, field) for one in rounds) for field in Figures.__dataclass_fields__]
        print("| {} | {:,.0f} | {:.0f} ms | {:.0f} ms | {:.0f} µs |".format(name, *middle))
    ours = statistics.median(one.per_second for one in measured["cim-worker gateway"])
    return 0 if ours >= TARGET_PER_SECOND else 1


if __name__ == "__main__":
    sys.exit(main())
