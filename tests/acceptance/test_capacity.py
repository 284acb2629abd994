"""`cim-worker capacity` is held to a real run: a backlog and what arrives meanwhile are done when it says."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import pika
import pytest

from tests.support.amqp import plain
from tests.support.command import cim_worker, printed_json
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

BACKLOG = 3000
ARRIVING = 200


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def message(number: int) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": f"customer-{number}"}}
    return json.dumps({"id": f"m-{number}", "header": header, "body": {"type": "PLAIN", "markdownText": "x"}}).encode()


def fill(world: World, count: int) -> None:
    with pika.BlockingConnection(pika.URLParameters(world.amqp_url)) as connection:
        channel = connection.channel()
        for number in range(count):
            channel.basic_publish("cim.ingress", "u", message(number), pika.BasicProperties(delivery_mode=2))


class Arrivals:
    """Publishes some messages a second for as long as the `with` block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with plain(self._url) as channel:
            while not self._stop.wait(1 / ARRIVING):
                self.count += 1
                channel.basic_publish("cim.ingress", "u", message(BACKLOG + self.count))


class Seen(NamedTuple):
    at: float
    waiting: int
    arrived: int


def until(world: World, arrivals: Arrivals, waiting: int) -> Seen:
    """Return how it is once no more than *waiting* messages are in the queue."""
    eventually(lambda: world.depth("cim.ingress") <= waiting, f"{waiting} messages", 90)
    return Seen(time.monotonic(), world.depth("cim.ingress"), arrivals.count)


@pytest.mark.alone
def test_a_backlog_is_done_when_the_calculation_says(world: World) -> None:
    """The first half of the run gives the pool's own rate, and the second half is what is foretold from it."""
    fill(world, BACKLOG)
    with world.pool(CIM_PREFETCH="200"), Arrivals(world.amqp_url) as arrivals:
        begun = until(world, arrivals, BACKLOG - 300)
        half = until(world, arrivals, BACKLOG // 2)
        rate = (begun.waiting - half.waiting + half.arrived - begun.arrived) / (half.at - begun.at)
        arriving = (half.arrived - begun.arrived) / (half.at - begun.at)
        finished = until(world, arrivals, 0)

    calculated = printed_json(
        cim_worker(
            *("capacity", "--arrivals", f"0:{arriving:.2f}", "--per-pod", f"{rate:.2f}", "--max-pods", "1", "--json"),
            *("--waiting", str(half.waiting), "--seconds", "600"),
        )
    )
    foretold = next(one["second"] for one in calculated["moments"] if one["waiting"] < 1)
    took = finished.at - half.at
    assert foretold * 0.4 - 2 <= took <= foretold * 2.5 + 2, f"{took:.1f} s, foretold {foretold} s at {rate:.0f}/s"


def test_what_is_no_curve_is_refused_with_an_example() -> None:
    for wrong in ("500", "60:1,0:2", "0:-1", "0:many", "0:inf", "0:5,1e12:5", ""):
        finished = cim_worker("capacity", "--arrivals", wrong)
        assert finished.returncode == ExitCode.CONFIGURATION
        assert "0:500,60:12000" in finished.stderr


def test_a_curve_is_shown_with_what_would_do() -> None:
    finished = cim_worker("capacity", "--arrivals", "0:500,60:12000,300:12000,360:500")

    assert finished.returncode == ExitCode.OK
    assert "waiting" in finished.stdout.splitlines()[0]
    assert "always there, would keep the oldest below 60 s" in finished.stdout
