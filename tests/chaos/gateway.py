"""Gateway, broker and workers killed while clients send with retries; then every request answered 200 is looked for.

`python -m tests.chaos.gateway --minutes 5 --seed 7` prints what was found; exit code 1 if something is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.services.processes import free_ports
from tests.services.services import found_store, private_broker
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually
from tests.support.gateway import ACTIVITIES, JSON, written
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services.broker import LocalBroker
    from tests.support.worker_pool import Pool

_CLIENTS = 8
_PAUSE_SECONDS = 0.05
_CONVERSATION = "live-1"
_QUIET_SECONDS = 120.0


@dataclass
class Findings:
    """What was done, and what is missing."""

    faults: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    letters: int = 0


class Clients:
    """Send messages of their own, each again until it is answered 200."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.accepted: set[str] = set()
        self.statuses: dict[str, int] = {}
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, each after its current try."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            name = f"m-{client}-{number}"
            message = activity(name, live=number % 2 == 0)
            while not self._stopping.is_set():
                outcome = self._post(message)
                with self._lock:
                    self.statuses[outcome] = self.statuses.get(outcome, 0) + 1
                    if outcome == "200":
                        self.accepted.add(name)
                        break
                self._stopping.wait(_PAUSE_SECONDS)

    def _post(self, message: bytes) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("POST", ACTIVITIES, message, JSON)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return "no answer"
        finally:
            connection.close()
        return str(answer.status)


def activity(name: str, *, live: bool) -> bytes:
    """Return a message for the live conversation, or one for a customer alone."""
    place: dict[str, Any] = {"conversationId": _CONVERSATION} if live else {"customer": {"_id": "customer-1"}}
    header = {"sender": {"id": "app-1", "type": "APP"}, "timestamp": 1_760_000_000_000, **place}
    return written({"id": name, "header": header, "body": {"type": "PLAIN", "markdownText": "hello"}})


class GatewayProcess:
    """A gateway on one port, started again after it was ended."""

    def __init__(self, world: World, port: int) -> None:
        self._world = world
        self._port = port
        self._number = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        self._number += 1
        settings = {
            "CIM_RABBITMQ_URL": self._world.amqp_url,
            "CIM_GATEWAY_PORT": str(self._port),
            "CIM_HTTP_PORT": "0",
            "CIM_GATEWAY_CONFIRM_TIMEOUT_MS": "2000",
            "CIM_LOG_FORMAT": "json",
        }
        log = self._world.folder / f"gateway-{self._number}.log"
        self.process = self._stack.enter_context(running(COMMAND, "gateway", log=log, **settings))

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(40)
        self.start()


def faults(gateway: GatewayProcess, broker: LocalBroker, pool: Pool) -> dict[str, Callable[[], None]]:
    """Return everything that is done, by name."""

    def broker_killed() -> None:
        broker.kill()
        time.sleep(1)
        broker.start()

    def broker_frozen() -> None:
        broker.freeze()
        time.sleep(3)
        broker.thaw()

    def worker_killed() -> None:
        workers = sorted(pool.pids() - {pool.process.pid})
        os.kill(workers[-1], signal.SIGKILL)

    def alarm() -> None:
        broker.set_memory_alarm(True)
        time.sleep(1)
        broker.set_memory_alarm(False)

    return {
        "gateway killed": lambda: gateway.end(signal.SIGKILL),
        "gateway stopped": lambda: gateway.end(signal.SIGTERM),
        "broker killed": broker_killed,
        "worker killed": worker_killed,
        "connections closed": broker.close_connections,
        "broker frozen": broker_frozen,
        "memory alarm": alarm,
    }


def run(
    world: World, broker: LocalBroker, choose: Iterator[str] | None, *, seconds: float, pause: float, seed: int
) -> Findings:
    """Break things for *seconds*, one after another with a *pause*, and return what became of what was accepted.

    The faults are those that *choose* names, or random ones.
    """
    found = Findings()
    chance = random.Random(seed)
    with world.pool("--processes", "2") as pool, GatewayProcess(world, free_ports(1)[0]) as gateway:
        queue = world.open(_CONVERSATION)
        broker.wait_until_on_disk(world.amqp_url.rpartition("/")[2], "cim.ingress", queue)
        clients = Clients(gateway._port)
        try:
            eventually(lambda: clients.accepted, "the first accepted request")
            known = faults(gateway, broker, pool)
            until = time.monotonic() + seconds
            while (name := next(choose, None) if choose else chance.choice(list(known))) is not None:
                found.faults.append(name)
                known[name]()
                time.sleep(pause)
                if choose is None and time.monotonic() > until:
                    break
            before = len(clients.accepted)
            eventually(lambda: len(clients.accepted) > before + 20, "accepted again after the last fault", 60)
        finally:
            clients.stop()
        found.accepted, found.statuses = clients.accepted, clients.statuses
        arrived: set[str] = set()

        def all_there() -> bool:
            arrived.update(json.loads(body)["data"]["id"] for *_, body in world.received(queue))
            found.missing = found.accepted - arrived - world.stored_ids()
            return not found.missing

        with contextlib.suppress(AssertionError):
            eventually(all_there, "all accepted messages", _QUIET_SECONDS)
        found.letters = world.depth("cim.dead-letters")
    return found


def main() -> int:
    """Run it with services of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.gateway", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--minutes", type=float, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        private_broker() as broker,
        found_store(None) as store,
    ):
        url = broker.create_vhost(f"chaos-{uuid.uuid4().hex}")
        assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url, CIM_RETRY_DELAYS="1s").returncode == 0
        world = World(url, store.uri, "chaos_gateway", Path(folder))
        found = run(world, broker, None, seconds=options.minutes * 60, pause=3, seed=options.seed)
    counts = {name: found.faults.count(name) for name in sorted(set(found.faults))}
    print(f"seed {options.seed}: {counts}")
    print(f"accepted: {len(found.accepted)}, answers: {found.statuses}")
    print(f"missing: {len(found.missing)} {sorted(found.missing)[:5]}, dead letters: {found.letters}")
    return 1 if found.missing or found.letters else 0


if __name__ == "__main__":
    sys.exit(main())
