"""The real parts around a keeper or a recorder: broker, store and topology, opened for one test."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.integration.amqp import connected
from tests.unit.deliveries import Notebook
from worker.app import SystemClock
from worker.conversation_cache import ConversationCache
from worker.gate import Gate
from worker.mongo.client import Store, connect
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import apply, wanted
from worker.tasks import cancel_and_wait

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
    notebook: Notebook
    new_id: Callable[[], str]


@asynccontextmanager
async def workbench(amqp_url: str, mongodb_uri: str, database: str) -> AsyncIterator[Workbench]:
    store = connect(mongodb_uri, database)
    clock = SystemClock()
    gate = Gate(
        "store",
        store.ping,
        random=lambda: 0.0,
        clock=clock.monotonic,
        on_close=lambda *_: None,
        on_open=lambda *_: None,
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
                Notebook(),
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
