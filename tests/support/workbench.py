"""The real parts around a lifecycle consumer or a recorder: broker, store and topology, opened for one test."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.amqp import connected
from tests.support.deliveries import RecordingReporter
from worker.conversations.cache import ConversationCache
from worker.failure import Dependency
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage
from worker.flow.tasks import cancel_and_wait
from worker.mongo.client import Store, connect
from worker.process.clock import SystemClock
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from worker.rabbit.connection import Connection


@dataclass
class Workbench:
    """What the composition root would hand over."""

    connection: Connection
    publisher: Publisher
    store: Store
    gate: Gate
    cache: ConversationCache
    clock: SystemClock
    reported: RecordingReporter
    new_id: Callable[[], str]


@asynccontextmanager
async def workbench(amqp_url: str, mongodb_uri: str, database: str) -> AsyncIterator[Workbench]:
    store = connect(mongodb_uri, database)
    clock = SystemClock()
    reported = RecordingReporter()
    gate = Gate(
        Dependency.STORE,
        "lifecycle",
        outage=Outage("store", address=store.address, reporter=reported, clock=clock),
        backoff=Backoff(0.1, 2, random=lambda: 0.0),
        clock=clock,
    )
    numbers = itertools.count()
    try:
        async with connected(amqp_url) as connection:
            await apply(connection, wanted((("1s", 1),), 20, connection.server_version))
            publisher = await Publisher.open(connection)
            yield Workbench(
                connection,
                publisher,
                store,
                gate,
                ConversationCache(max_size=100, ttl_ms=60_000),
                clock,
                reported,
                lambda: f"copy-{next(numbers)}",
            )
    finally:
        await gate.stop()
        await store.close()


@asynccontextmanager
async def running(job: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a job beside the block; an error of its own fails the test."""
    task = asyncio.create_task(job)
    try:
        yield task
        if task.done():
            task.result()
    finally:
        await cancel_and_wait([task])
