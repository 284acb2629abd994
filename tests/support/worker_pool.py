"""The real `cim-worker run` as a subprocess, and the world around it: publishers, platform, subscribers, operators."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
import pymongo

from tests.services.processes import free_ports
from tests.support.amqp import connected, depth, drained, plain
from tests.support.command import COMMAND, environment
from tests.support.eventually import eventually
from worker.rabbit.topology import apply, problems, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POISONABLE = str(Path(__file__).with_name("poisonable.py"))
OUTPUTS: list[Path] = []
"""What every pool of this run wrote: searched for passwords at the end."""


@dataclass
class World:
    """One virtual host and one database, seen from outside the worker."""

    amqp_url: str
    mongodb_uri: str
    database: str
    folder: Path
    delivery_limit: int = 20
    pools: list[Pool] = field(default_factory=list)

    def apply_topology(self, partitions: int = 0, *, ordered: bool = False) -> None:
        async def create() -> None:
            async with connected(self.amqp_url) as connection:
                version = connection.server_version
                topology = wanted((("1s", 1),), self.delivery_limit, version, partitions=partitions, ordered=ordered)
                assert not list(problems(await apply(connection, topology)))

        asyncio.run(create())

    # -- publishers ----

    def publish(self, *bodies: bytes, exchange: str = "", key: str = "cim.ingress", **properties: Any) -> None:
        with plain(self.amqp_url) as channel:
            for body in bodies:
                channel.basic_publish(exchange, key, body, pika.BasicProperties(delivery_mode=2, **properties))

    # -- the platform ----

    def tell(self, conversation_id: str, state: str, at: int, **data: Any) -> None:
        event = {
            "id": f"{conversation_id}-{at}",
            "name": "TOPIC_STATE_CHANGED",
            "timestamp": at,
            "conversationId": conversation_id,
            "data": {"id": conversation_id, "state": state, **data},
        }
        with plain(self.amqp_url) as channel:
            channel.basic_publish("cim.conversation-events", event["name"], json.dumps(event).encode())

    # -- subscribers ----

    def subscribe(self, conversation_id: str) -> str:
        """Bind a queue to a conversation's exchange, as soon as there is one; return the queue."""
        queue = f"desk of {conversation_id}"

        def bound() -> bool:
            with plain(self.amqp_url) as channel:
                channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
                try:
                    channel.queue_bind(queue, f"conversation.{conversation_id}")
                except pika.exceptions.ChannelClosedByBroker:
                    return False
                return True

        eventually(bound, f"the exchange of {conversation_id}")
        return queue

    def open(self, conversation_id: str, at: int = 1_760_000_000_000, **data: Any) -> str:
        self.tell(conversation_id, "ACTIVE", at, **data)
        return self.subscribe(conversation_id)

    def received(self, queue: str) -> list[tuple[Any, Any, bytes]]:
        return drained(self.amqp_url, queue)

    # -- store and queues ----

    def collection(self, name: str) -> list[dict[str, Any]]:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self.mongodb_uri)
        with client:
            return list(client[self.database][name].find())

    def stored_ids(self) -> set[str]:
        """Return the message ids in the store."""
        return {one["messageId"] for one in self.collection("ConversationActivities")}

    def stored(self, message_id: str) -> dict[str, Any] | None:
        found = [one for one in self.collection("ConversationActivities") if one["messageId"] == message_id]
        return found[0] if found else None

    def depth(self, queue: str) -> int:
        return depth(self.amqp_url, queue)

    def letter(self, message_id: str | None = None) -> tuple[Any, bytes]:
        """Take letters until one with this AMQP message id comes; return its properties and body."""
        found: list[tuple[Any, bytes]] = []

        def there() -> bool:
            letters = [(properties, body) for _, properties, body in drained(self.amqp_url, "cim.dead-letters")]
            found.extend(one for one in letters if message_id is None or one[0].message_id == message_id)
            return bool(found)

        eventually(there, f"a letter {message_id}")
        return found[0]

    # -- operators ----

    @contextlib.contextmanager
    def pool(self, *arguments: str, poison: str = "", **variables: str) -> Iterator[Pool]:
        """Run a pool of workers until the end of the block; it must leave no process behind.

        With *poison*, its processes die of a body that contains that text.
        """
        command = [sys.executable, POISONABLE] if poison else [COMMAND]
        made = Pool(self, [*command, "run", *arguments], {**variables, "POISON": poison})
        self.pools.append(made)
        try:
            yield made
        finally:
            made.kill_everything()


class Pool:
    """One `cim-worker run` and what it writes."""

    def __init__(self, world: World, command: Sequence[str], variables: dict[str, str]) -> None:
        self.http_port = free_ports(1)[0]
        self.output = world.folder / f"output-{len(world.pools)}.log"
        OUTPUTS.append(self.output)
        settings = {
            "CIM_RABBITMQ_URL": world.amqp_url,
            "CIM_MONGODB_URI": world.mongodb_uri,
            "CIM_MONGODB_DATABASE": world.database,
            "CIM_MONGODB_TIMEOUT_MS": "3000",
            "CIM_LOG_FORMAT": "json",
            "CIM_RETRY_DELAYS": "1s",
            "CIM_DELIVERY_LIMIT": str(world.delivery_limit),
            "CIM_HTTP_PORT": str(self.http_port),
            "CIM_RECORD_DEAD_LETTERS": "false",
            **variables,
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=environment(**settings),
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        found = []
        for line in self.text.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    def wait_for(self, event: str, count: int = 1, seconds: float = 30) -> list[dict[str, Any]]:
        """Return the log lines of one kind once there are *count*."""
        return eventually(
            lambda: found if len(found := self.lines(event)) >= count else [], f"{event} in {self.output}", seconds
        )

    def ask(self, path: str) -> tuple[int, str]:
        """Return status and text of what the pool's HTTP port answers; 0 when it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> tuple[bool, list[str]]:
        """Return what readiness says."""
        status, text = self.ask("/readyz")
        if not status:
            return False, ["no answer"]
        document = json.loads(text)
        return document["ready"], document["reasons"]

    def says(self, reason: str) -> bool:
        """Tell whether readiness gives a reason that contains this."""
        return any(reason in one for one in self.ready()[1])

    def metrics(self) -> dict[str, float]:
        status, text = self.ask("/metrics")
        assert status == 200, text
        rows = [row.rpartition(" ") for row in text.splitlines() if not row.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    def metrics_now(self) -> dict[str, float]:
        """Return numbers of reports that began after this call.

        A report is up to a second old, and one that was under way may be read late: the second new one is of now.
        """

        def next_reports_of_all(since: float) -> float:
            def reported_at() -> float:
                return min(time.time() - float(one["silent_seconds"]) for one in self._processes())

            return eventually(lambda: at if (at := reported_at()) > since + 0.3 else 0, "new reports")

        next_reports_of_all(next_reports_of_all(time.time()))
        return self.metrics()

    def _processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ask("/livez")[1])["processes"]
        return found

    def workers(self) -> list[int]:
        """Return the worker processes that run, by their place in the pool."""
        return [one["pid"] for one in self._processes() if one["pid"]]

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def pids(self) -> set[int]:
        """Return every process of the pool that lives."""
        found = set()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.add(int(folder.name))
        return found

    def kill_everything(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
