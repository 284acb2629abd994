"""Where a run takes place: a virtual host and a database, filled before it, watched during it, checked after it."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pika
import pymongo

from tests.benchmarks.messages import Kind, Prepared, places
from worker import contract
from worker.cim import derived_id
from worker.conversations.conversation import ConversationRecord, Fact, SessionFact
from worker.mongo import indexes
from worker.mongo.activities import COLLECTION as ACTIVITIES
from worker.mongo.client import connect
from worker.mongo.dead_letters import COLLECTION as LETTERS
from worker.mongo.registry import COLLECTION as REGISTRY
from worker.ports import Confirmation, Outgoing
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.exchanges import ConversationExchanges
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, wanted
from worker.settings import Settings, delay_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.services.broker import LocalBroker
    from worker.cli.demo.activities import Place

ARRIVALS = "bench.arrivals"
"""The one subscriber's queue, bound to every conversation: classic and durable, as a desk's queue would be."""
_AT_ONCE = 64
_PRELOAD_RUN = 2000
_DRAIN_PREFETCH = 2000
_SMALL_SESSION = {"channel": {"name": "voice"}, "state": {"name": "STARTED"}, "isActive": True}
_TIER = Settings.model_fields["retry_delays"].default
_DELIVERY_LIMIT = Settings.model_fields["delivery_limit"].default


@dataclass(frozen=True, slots=True)
class Effects:
    """What has been proven so far."""

    published: int = 0
    stored: int = 0
    dead: int = 0

    @property
    def total(self) -> int:
        """All of them together."""
        return self.published + self.stored + self.dead


@dataclass(slots=True)
class Loaded:
    """What was put into ingress and has to come out."""

    expected: dict[Kind, set[str]] = field(default_factory=lambda: {kind: set() for kind in Kind})
    """Event ids by kind; of invalid ones the message ids."""

    @property
    def count(self) -> int:
        """All messages."""
        return sum(map(len, self.expected.values()))


class Stage:
    """One virtual host and database with conversations. Use it as a context manager; `reset` between runs."""

    def __init__(
        self,
        broker: LocalBroker,
        store_uri: str,
        *,
        conversations: int,
        session: dict[str, Any] = _SMALL_SESSION,
        partitions: int = 0,
        ordered: bool = False,
    ) -> None:
        """Have *conversations* active and as many closed ones, each with one channel session like *session*.

        The ingress is divided into *partitions*; *ordered*: one process at a time consumes each.
        """
        self._divided = partitions, ordered
        self.broker = broker
        self._session = session
        self.live: list[Place] = places("live", conversations)
        self.closed: list[Place] = places("closed", conversations)
        self._vhost = f"bench-{uuid.uuid4().hex[:8]}"
        self.database = f"bench_{uuid.uuid4().hex[:8]}"
        self.store_uri = store_uri
        self.url = broker.create_vhost(self._vhost)
        self._mongo: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(store_uri)
        self._amqp: pika.BlockingConnection | None = None

    def __enter__(self) -> Self:
        asyncio.run(self._build())
        self._amqp = pika.BlockingConnection(pika.URLParameters(self.url + "?heartbeat=0"))
        self._channel = self._amqp.channel()
        return self

    def __exit__(self, *_: object) -> None:
        if self._amqp is not None:
            self._amqp.close()
        self._mongo.drop_database(self.database)
        self._mongo.close()  # the virtual host goes with the broker: deleting ten thousand exchanges takes minutes

    @property
    def vhost(self) -> str:
        """Name of the virtual host."""
        return self._vhost

    @property
    def environment(self) -> dict[str, str]:
        """What a contender needs to know, in the words of our settings."""
        return {
            "CIM_RABBITMQ_URL": self.url,
            "CIM_MONGODB_URI": self.store_uri,
            "CIM_MONGODB_DATABASE": self.database,
        }

    def reset(self) -> None:
        """Empty every queue and the collections that runs write to; the registry stays."""
        for queue in (contract.INGRESS, contract.DEAD_LETTERS, ARRIVALS):
            self._channel.queue_purge(queue)
        database = self._mongo[self.database]
        database.drop_collection(ACTIVITIES)
        database.drop_collection(LETTERS)
        asyncio.run(self._ensure_indexes())

    def fill(
        self,
        messages: Iterable[Prepared],
        *,
        reply_to: str | None = None,
        publish: Callable[[Sequence[Outgoing]], None] | None = None,
    ) -> Loaded:
        """Publish *messages* to the ingress queue, confirmed, and return what has to come out.

        They ask for a receipt at *reply_to*, or are published by *publish*.
        """
        loaded = Loaded()
        runs = _runs(messages, loaded, reply_to)
        if publish is None:
            asyncio.run(self._publish(runs))
        else:
            for run in runs:
                publish(run)
        return loaded

    def apply_topology(self) -> None:
        """Make what is missing of our queues and exchanges."""
        asyncio.run(self._apply())

    def waiting(self) -> int:
        """Return how many messages are ready in the ingress queue."""
        return self._depth(contract.INGRESS)

    def effects(self) -> Effects:
        """Return what is proven: arrived at the subscriber, in the store, in the dead letters."""
        database = self._mongo[self.database]
        return Effects(
            self._depth(ARRIVALS),
            database[ACTIVITIES].estimated_document_count(),
            self._depth(contract.DEAD_LETTERS) + database[LETTERS].estimated_document_count(),
        )

    def arrived(self) -> int:
        """Return how many messages the subscriber has got."""
        return self._depth(ARRIVALS)

    def stored(self) -> int:
        """Return how many activities the store holds."""
        return self._mongo[self.database][ACTIVITIES].estimated_document_count()

    @contextmanager
    def unheard(self, some: Sequence[Place]) -> Iterator[None]:
        """Take the subscriber's queue off the exchanges of *some* conversations meanwhile: nobody listens there."""
        exchanges = [contract.conversation_exchange(place.conversation_id) for place in some]
        for exchange in exchanges:
            self._channel.queue_unbind(ARRIVALS, exchange, routing_key="")
        yield
        for exchange in exchanges:
            self._channel.queue_bind(ARRIVALS, exchange, routing_key="")

    def drained(self, queue: str) -> list[str]:
        """Take everything out of *queue* and return the message ids; one that comes twice is there twice."""
        return asyncio.run(self._drain(queue))

    def documents(self) -> list[str]:
        """Return the message ids of all stored activities; one that is stored twice is there twice."""
        return [one["messageId"] for one in self._mongo[self.database][ACTIVITIES].find({}, {"messageId": 1})]

    def letters(self) -> set[str]:
        """Return the message ids of all dead letters, queued or recorded."""
        recorded = self._mongo[self.database][LETTERS].find({}, {"messageId": 1})
        return {*self.drained(contract.DEAD_LETTERS), *(letter["messageId"] for letter in recorded)}

    def problems(self, loaded: Loaded, *, by_id: bool = True, drained: bool = True) -> list[str]:
        """Compare what came out with what went in; return sentences, none when all is well.

        *by_id* compares the events that arrived one by one, otherwise only their number; *drained* says that the
        ingress queue has to be empty.
        """
        found = []
        if drained and (left := self.waiting()) != 0:
            found.append(f"{left} messages are still in the ingress queue")
        found += self._events_astray(loaded.expected[Kind.LIVE], by_id=by_id)
        documents = self._mongo[self.database][ACTIVITIES].find({}, {"_id": 1})
        found += _astray("documents", [str(document["_id"]) for document in documents], loaded.expected[Kind.STORED])
        return found + self._letters_astray(loaded.expected[Kind.INVALID])

    def _letters_astray(self, expected: set[str]) -> list[str]:
        """Compare the dead letters. One that is recorded may still be in its queue, when the recorder was stopped."""
        return _astray("dead letters", list(self.letters()), expected)

    def _events_astray(self, expected: set[str], *, by_id: bool) -> list[str]:
        if by_id:
            return _astray("events", list(dict.fromkeys(self.drained(ARRIVALS))), expected)
        arrived = self.arrived()
        return [] if arrived == len(expected) else [f"{arrived} events instead of {len(expected)}"]

    def _depth(self, queue: str) -> int:
        return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    async def _ensure_indexes(self) -> None:
        store = connect(self.store_uri, self.database)
        for index in indexes.ALL:
            await indexes.make(store, index)
        await store.close()

    async def _build(self) -> None:
        await self._ensure_indexes()
        self._register(self.live, "ACTIVE")
        self._register(self.closed, "CLOSED")
        await self._apply()
        connection = await Connection.open(self.url, name="bench stage")
        channel = await connection.channel()
        await channel.call("queue_declare", ARRIVALS, durable=True)
        waiting = list(self.live)
        await asyncio.gather(*(self._open_some(connection, waiting) for _ in range(_AT_ONCE // 8)))
        await connection.close()

    async def _apply(self) -> None:
        connection = await Connection.open(self.url, name="bench stage")
        tiers = tuple((delay, delay_seconds(delay)) for delay in _TIER)
        partitions, ordered = self._divided
        version = connection.server_version
        topology = wanted(tiers, _DELIVERY_LIMIT, version, partitions=partitions, ordered=ordered)
        await apply(connection, topology)
        await connection.close()

    async def _open_some(self, connection: Connection, waiting: list[Place]) -> None:
        exchanges = ConversationExchanges(connection)
        channel = await connection.channel()
        while waiting:
            conversation_id = waiting.pop().conversation_id
            await exchanges.open([conversation_id])
            await channel.call("queue_bind", ARRIVALS, contract.conversation_exchange(conversation_id), routing_key="")

    def _register(self, some: Sequence[Place], state: str) -> None:
        documents = [_record(place, state, self._session).to_document() for place in some]
        if documents:
            self._mongo[self.database][REGISTRY].insert_many(documents)

    async def _publish(self, runs: Iterable[Sequence[Outgoing]]) -> None:
        connection = await Connection.open(self.url, name="bench publisher")
        publisher = await Publisher.open(connection)
        for run in runs:
            await _confirmed(publisher, run)
        await connection.close()

    async def _drain(self, queue: str) -> list[str]:
        """Take everything out of *queue* and return the message ids."""
        left = self._depth(queue)
        connection = await Connection.open(self.url, name="bench subscriber")
        loop = asyncio.get_running_loop()
        consumer = await Consumer.open(connection, queue, loop.time)
        await consumer.start(_DRAIN_PREFETCH)
        ids: list[str] = []
        async with asyncio.timeout(60):
            while len(ids) < left:
                await consumer.wait_for_arrival()
                for delivery in consumer.take(_DRAIN_PREFETCH, 1 << 30):
                    ids.append(delivery.properties.message_id or derived_id(delivery.body))
                    consumer.settle(delivery)
        await connection.close()
        return ids


def _astray(what: str, found: list[str], expected: set[str]) -> list[str]:
    different = set(found)
    facts = {
        "missing": len(expected - different),
        "unexpected": len(different - expected),
        "double": len(found) - len(different),
    }
    return [f"{what}: {', '.join(f'{count} {name}' for name, count in facts.items())}"] if any(facts.values()) else []


def _runs(messages: Iterable[Prepared], loaded: Loaded, reply_to: str | None) -> Iterator[Sequence[Outgoing]]:
    """Yield *messages* in runs as they are published, and note in *loaded* what has to come out of them."""
    run: list[Outgoing] = []
    for message in messages:
        identity = message.message_id if message.kind is Kind.INVALID else message.event_id
        loaded.expected[message.kind].add(identity)
        run.append(Outgoing("", contract.INGRESS, message.message_id, message.body, reply_to=reply_to))
        if len(run) == _PRELOAD_RUN:
            yield run
            run = []
    yield run


async def _confirmed(publisher: Publisher, run: Sequence[Outgoing]) -> None:
    confirmations = await publisher.publish(run)
    if any(receipt is not Confirmation.CONFIRMED for receipt in confirmations):
        raise RuntimeError("the broker did not take a message of the preload")


def _record(place: Place, state: str, session: dict[str, Any]) -> ConversationRecord:
    at = time.time_ns() // 1_000_000  # silent conversations expire
    own = {**session, "id": place.session_id}
    room = {"id": f"room-{place.conversation_id}", "mode": "CONTACT_CENTER"}
    return ConversationRecord(
        place.conversation_id, Fact(state, at), Fact(place.customer_id, at), Fact(room, at), (SessionFact(own, at),)
    )
