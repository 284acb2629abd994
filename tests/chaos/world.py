"""Everything one run needs: a private broker and store behind proxies, the pool, publisher and subscriber."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pika
from bson.raw_bson import RawBSONDocument
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from tests.chaos.evidence import has_letter
from tests.chaos.ledger import Ledger
from tests.chaos.messages import KILL_MARK, TRAP, UNSTORABLE_MARK, VHOST, Mix, Places, Traffic
from tests.chaos.pool import Pool, snapshot
from tests.chaos.publishing import Publisher
from tests.chaos.subscribing import Subscriber
from tests.contract.store.servers import SERVERS
from tests.services.broker import LocalBroker
from tests.services.cluster import LocalCluster
from tests.services.management import ManagementError
from tests.services.proxy import Network
from tests.services.services import private_broker
from tests.support.wire_proxy import WireProxy, wire_proxy, write_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.services.store import StoreProcess

T = TypeVar("T")

DATABASE = "chaos"
POOL_USER = "pool"
"""The broker user of the pool; publisher and subscribers are guest."""
_POOL_PASSWORD = "pool"
PREFETCH = 200
MAX_ATTEMPTS = 6
DELIVERY_LIMIT = 12
DRAIN_SECONDS = 4.0
SETTINGS = {
    # Short timeouts, so that "longer than the timeouts" is a matter of seconds.
    "CIM_RABBITMQ_HEARTBEAT_SECONDS": "2",
    "CIM_CONFIRM_TIMEOUT_MS": "3000",
    "CIM_MONGODB_TIMEOUT_MS": "1500",
    "CIM_DRAIN_GRACE_MS": str(int(DRAIN_SECONDS * 1000)),
    "CIM_CONVERSATION_GRACE_MS": "2000",
    "CIM_REGISTRY_CACHE_MS": "1000",
    "CIM_RETRY_DELAYS": "1s,2s",
    "CIM_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "CIM_DELIVERY_LIMIT": str(DELIVERY_LIMIT),
    "CIM_RECORD_INTERVAL_MS": "1500",
    "CIM_PREFETCH": str(PREFETCH),
    "CIM_BATCH_SIZE": "100",
    "CIM_MAX_BYTES_IN_FLIGHT": str(8 * 1024 * 1024),
    "CIM_LOG_FORMAT": "json",
}
LONGER_THAN_TIMEOUTS = 10.0
"""pika looks for missing heartbeats every heartbeat interval and five seconds."""
SHORTER_THAN_TIMEOUTS = 0.8
_QUIET = 12
"""Conversations that get messages only while the store is away."""
UNLISTED_CODE = 365
"""An error of the store that no list of the worker knows."""
# Counts that are fresh, and room for the message that no document can hold: 4.3 takes 16 MiB unless told otherwise.
_CONFIGURATION = ("collect_statistics_interval = 1000", "max_message_size = 134217728")
_ADMIN_TIMEOUT_SECONDS = 90.0


@dataclass
class World:
    """The parts of a run that faults and checks work on."""

    run: str
    rng: random.Random
    places: Places
    ledger: Ledger
    traffic: Traffic
    broker: LocalBroker | LocalCluster
    store: StoreProcess
    sick: WireProxy
    """Answers chosen commands in the store's place."""
    broker_net: Network
    store_net: Network
    pool: Pool
    publisher: Publisher
    subscriber: Subscriber
    publisher_url: str
    """Past the proxies."""
    folder: Path
    say: Callable[[str], None]
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """Worker process id to (monotonic seconds, MiB)."""
    peak_mib: float = 0.0

    @property
    def node(self) -> LocalBroker:
        """The broker, where it is one node."""
        assert isinstance(self.broker, LocalBroker)
        return self.broker

    @property
    def cluster(self) -> LocalCluster:
        """The broker, where it is a cluster."""
        assert isinstance(self.broker, LocalCluster)
        return self.broker

    @property
    def queue_arguments(self) -> dict[str, Any]:
        """What a queue needs to outlive the loss of a node, where there are several."""
        return {"x-queue-type": "quorum"} if isinstance(self.broker, LocalCluster) else {}

    async def admin(self, action: Callable[[Any], T]) -> T:
        """Do something on a channel of our own, past the proxies; repeat until the broker let us.

        Raises TimeoutError when it never does.
        """
        return await asyncio.to_thread(_insist, lambda: self.broker.vhost_url(VHOST), action)

    def has_letter(self, code: str, body: bytes) -> bool:
        """Tell whether a letter of that code and body was recorded. Raises PyMongoError while the store is away."""
        return has_letter(self.store.uri, DATABASE, code, body)

    async def command(self, *arguments: str) -> None:
        """Run one `cim-worker` command; repeat until it succeeds. Raises CalledProcessError at last."""
        await asyncio.to_thread(_keep_trying, lambda: self.pool.command(*arguments))

    async def make_vhost(self) -> None:
        """Make the virtual host and give the pool's user its rights."""
        await self.manage(lambda: _make_vhost(self.broker))

    async def make_trap(self) -> None:
        """Make the queue that only a CC header leads to."""
        await self.admin(lambda channel: channel.queue_declare(TRAP, durable=True, arguments=self.queue_arguments))

    async def manage(self, action: Callable[[], object]) -> None:
        """Do something over the management API; repeat until the broker answers. Raises what it says at last."""
        await asyncio.to_thread(_keep_trying, action)


@contextlib.asynccontextmanager
async def world(
    seed: int,
    mix: Mix,
    say: Callable[[str], None],
    *,
    code: Path | None = None,
    broker_root: Path | None = None,
    store: str = "embedded",
    cluster: bool = False,
    in_order: bool = False,
) -> AsyncIterator[World]:
    """Start everything but the pool; end and remove everything, whatever happened.

    *code*: a folder with the worker package to run; a snapshot of the tree unless given. *broker_root*: root file
    system of another RabbitMQ. *store*: a name of `tests.contract.store.servers`. With *cluster* the broker is three
    nodes. *in_order*: the pool keeps the order of each key.
    """
    folder = Path(tempfile.mkdtemp(prefix="cim-chaos-"))
    try:
        with _broker(broker_root, cluster=cluster) as broker:
            (folder / "store").mkdir()
            server = SERVERS[store](folder / "store")
            try:
                await asyncio.to_thread(server.start)
                with wire_proxy(server.uri) as sick:
                    sick.on("insert", collection="ConversationActivities", answer=refuse_unstorable)
                    where = code or snapshot(folder)
                    parts = _Parts(seed, mix, say, folder, where, broker, server, sick, in_order)
                    async with _assembled(parts) as made:
                        yield made
            finally:
                server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _broker(root: Path | None, *, cluster: bool) -> contextlib.AbstractContextManager[LocalBroker | LocalCluster]:
    if cluster:
        return LocalCluster(chroot=root, configuration=_CONFIGURATION)
    return private_broker(configuration=_CONFIGURATION, chroot=root, say=lambda _: None)


@dataclass(frozen=True, slots=True)
class _Parts:
    seed: int
    mix: Mix
    say: Callable[[str], None]
    folder: Path
    code: Path
    broker: LocalBroker | LocalCluster
    store: StoreProcess
    sick: WireProxy
    in_order: bool


@contextlib.asynccontextmanager
async def _assembled(parts: _Parts) -> AsyncIterator[World]:
    await asyncio.to_thread(_make_vhost, parts.broker)
    nodes = parts.broker.nodes if isinstance(parts.broker, LocalCluster) else [parts.broker]
    url = ",".join(node.vhost_url(VHOST) for node in nodes)
    async with Network(*(node.amqp_port for node in nodes)) as broker_net, Network(parts.sick.port) as store_net:
        made = _world(parts, url, broker_net, store_net)
        jobs = [asyncio.create_task(made.publisher.run()), asyncio.create_task(made.subscriber.run())]
        try:
            yield made
        finally:
            made.pool.kill_everything()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


def _world(parts: _Parts, url: str, broker_net: Network, store_net: Network) -> World:
    run = f"{parts.seed}x{secrets.token_hex(3)}"
    environment = {
        **SETTINGS,
        "CIM_RABBITMQ_URL": ",".join(
            f"amqp://{POOL_USER}:{_POOL_PASSWORD}@127.0.0.1:{port}/{VHOST}" for port in broker_net.ports
        ),
        "CIM_MONGODB_URI": f"mongodb://127.0.0.1:{store_net.ports[0]}/",
        "CIM_MONGODB_DATABASE": DATABASE,
        "POISON": KILL_MARK,
        "CIM_INGRESS_ORDER": str(parts.in_order).lower(),
    }
    places, ledger = Places.of(run, quiet=_QUIET if parts.in_order else 0), Ledger(run)
    rng, in_order = random.Random(parts.seed + 1), parts.in_order
    now_ms = time.time_ns() // 1_000_000
    return World(
        run=run,
        rng=random.Random(parts.seed),
        places=places,
        ledger=ledger,
        traffic=Traffic(rng, run, places, parts.mix, now_ms=now_ms, in_order=in_order),
        broker=parts.broker,
        store=parts.store,
        sick=parts.sick,
        broker_net=broker_net,
        store_net=store_net,
        pool=Pool(parts.code, parts.folder / "worker.log", environment, run),
        publisher=Publisher(url, ledger),
        subscriber=Subscriber(url, ledger),
        publisher_url=url,
        folder=parts.folder,
        say=parts.say,
    )


def _make_vhost(broker: LocalBroker | LocalCluster) -> None:
    management = broker.management
    management.create_vhost(VHOST)
    management.create_user(POOL_USER, _POOL_PASSWORD)
    management.set_permissions(POOL_USER, VHOST)
    if isinstance(broker, LocalCluster):
        broker.give_back_soon(VHOST)


def _is_unstorable(document: Mapping[str, Any]) -> bool:
    return isinstance(document, RawBSONDocument) and UNSTORABLE_MARK.encode() in document.raw


refuse_unstorable = write_error(UNLISTED_CODE, _is_unstorable)
"""How the store answers an insert while it is well: a document with the mark fails, always, its neighbours do not."""


def _keep_trying(action: Callable[[], object]) -> None:
    deadline = time.monotonic() + _ADMIN_TIMEOUT_SECONDS
    while True:
        try:
            action()
        except (OSError, HTTPException, ManagementError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _insist(address: Callable[[], str], action: Callable[[Any], T]) -> T:
    deadline = time.monotonic() + _ADMIN_TIMEOUT_SECONDS
    while True:
        parameters = pika.URLParameters(address())
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 5
        parameters.connection_attempts = 1
        parameters.heartbeat = 6
        try:
            connection = pika.BlockingConnection(parameters)
            try:
                return action(connection.channel())
            finally:
                with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                    connection.close()
        except (pika.exceptions.AMQPError, AMQPConnectorException, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
