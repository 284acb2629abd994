"""From settings to what the page works with: store, registry, today's rules, and a broker connection when needed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.addresses import user_name
from worker.desk import explain, status
from worker.desk.desk import Desk, Who
from worker.desk.live import JournalOutcomes, LiveTraffic
from worker.desk.replay import Control, replay, resume
from worker.mongo.client import connect
from worker.mongo.letters import LetterCollection
from worker.mongo.operator_actions import ActionCollection
from worker.mongo.overview import Overview
from worker.mongo.registry import Registry
from worker.mongo.searching import StoreSearch
from worker.mongo.stored_activities import StoredActivities
from worker.pipeline.reading import Reading
from worker.pipeline.senders import Senders
from worker.rabbit.connection import Connection
from worker.rabbit.depths import ManagementDepths, PassiveDepths
from worker.rabbit.publisher import Publisher
from worker.rabbit.stream import Stream
from worker.settings import delay_seconds
from worker.web.desk.fresh import Fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.desk.audit import Action
    from worker.desk.filter import Filter
    from worker.desk.journal import JournalStream
    from worker.desk.replay import Options
    from worker.mongo.client import Store
    from worker.ports import Clock
    from worker.settings import Settings

_NAME: Final = "cim-worker desk"
_WINDOW_MS: Final = 300_000
"""How far back outcomes are counted at the top of each page."""


@dataclass(frozen=True, slots=True)
class _BrokerView:
    version: str
    queues: PassiveDepths
    journal: Stream


class Office:
    """Everything a page works with. One for each server; `close` it at the end."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Nothing is connected to before it is needed. Raises `OperatorFault` for a store address that is none."""
        self.settings = settings
        self.clock = clock
        self._store: Store = connect(
            settings.mongodb_uri.get_secret_value(),
            settings.mongodb_database,
            timeout_ms=settings.mongodb_timeout_ms,
            ca_file=settings.mongodb_ca_file,
            app_name=_NAME,
        )
        self._desk = self._made()
        self.fresh = Fresh()
        search = StoreSearch(self._store)
        self.sources = explain.Sources(search, search, Registry(self._store), self.journal)
        """For `explain`."""
        self.status_sources = status.Sources(
            self._broker_view, ManagementDepths.of(self.settings), Overview(self._store), settings.retry_delays
        )
        self._observer = status.Observer(self.status_sources, _WINDOW_MS)

    def desk(self, user: str, *, may_change: bool) -> Desk:
        """Return the desk for one person."""
        read_only = self.settings.read_only or not may_change
        return replace(self._desk, who=Who(user), read_only=read_only)

    async def look(self) -> status.Report:
        """Return how the pool is doing now. Not to be called twice at the same time."""
        return await self._observer.look(self.clock.now_ms())

    async def close(self) -> None:
        """Close the store's connections."""
        await self._store.close()

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[JournalStream]:
        """Yield the journal over a connection of its own. Raises `BrokerError`."""
        async with self._connection() as connection:
            yield Stream(connection, contract.OUTCOMES)

    async def replay(
        self, desk: Desk, chosen: Filter, reason: str, options: Options, plan_hash: str, control: Control
    ) -> Action:
        """Replay letters over a connection of its own, and watch live traffic meanwhile. Raises as `replay` does."""
        async with self._publishing(control) as (publisher, journal):
            return await replay(desk, publisher, journal, chosen, reason, options, plan_hash=plan_hash, control=control)

    async def resume(self, desk: Desk, job_id: str, control: Control) -> Action:
        """Go on with a replay that ended early. Raises as `resume` does."""
        async with self._publishing(control) as (publisher, journal):
            return await resume(desk, publisher, journal, job_id, control=control)

    @asynccontextmanager
    async def _publishing(self, control: Control) -> AsyncIterator[tuple[Publisher, JournalOutcomes]]:
        user = user_name(self.settings.rabbitmq_url)
        async with self._connection() as reading, self._connection() as writing:
            stream = Stream(reading, contract.OUTCOMES)
            timeout_ms = self.settings.confirm_timeout_ms
            publisher = await Publisher.open(writing, confirm_timeout_ms=timeout_ms, user_id=user)
            live = LiveTraffic(stream, self.clock)
            control.live = live
            watching = asyncio.create_task(live.run(), name="watch live traffic")
            try:
                yield publisher, JournalOutcomes(stream)
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await Connection.open(
            self.settings.rabbitmq_url.get_secret_value(),
            name=_NAME,
            heartbeat_seconds=self.settings.rabbitmq_heartbeat_seconds,
            ca_file=self.settings.rabbitmq_ca_file,
        )
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def _broker_view(self) -> AsyncIterator[_BrokerView]:
        async with self._connection() as connection:
            version = ".".join(map(str, connection.server_version))
            yield _BrokerView(version, PassiveDepths(connection), Stream(connection, contract.OUTCOMES))

    def _made(self) -> Desk:
        settings, store = self.settings, self._store
        user = user_name(settings.rabbitmq_url)
        return Desk(
            letters=LetterCollection(store),
            actions=ActionCollection(store),
            activities=StoredActivities(store),
            registry=Registry(store),
            reading=Reading(
                Senders(settings.sender_users, frozenset((*settings.trusted_users, user))),
                max_message_bytes=settings.max_message_bytes,
                event_names=settings.event_names,
            ),
            clock=self.clock,
            who=Who(""),
            user=user,
            max_replays=settings.max_replays,
            retention_ms=delay_seconds(settings.letter_retention) * 1000,
            read_only=settings.read_only,
        )
