"""From settings to what the desk works with: store, registry, today's rules, broker, journal; for commands and page."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from worker import contract
from worker.addresses import user_name
from worker.desk import explain, status
from worker.desk.desk import Desk
from worker.desk.live import JournalOutcomes, LiveTraffic
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.desk.desk import Who
    from worker.desk.journal import JournalStream
    from worker.desk.steps import Control
    from worker.mongo.client import Store
    from worker.ports import Clock, EventPublisher
    from worker.settings import Settings


def store_of(settings: Settings, name: str, *, timeout_ms: int | None = None) -> Store:
    """Return the store, which knows this client as *name*; nothing is connected for it yet.

    Each operation may take *timeout_ms*, by default the configured time. Raises `OperatorFault` for an address that
    cannot be used.
    """
    return connect(
        settings.mongodb_uri.get_secret_value(),
        settings.mongodb_database,
        timeout_ms=timeout_ms or settings.mongodb_timeout_ms,
        ca_file=settings.mongodb_ca_file,
        app_name=name,
    )


@asynccontextmanager
async def broker_connection(settings: Settings, name: str, *, url: str | None = None) -> AsyncIterator[Connection]:
    """Yield a connection that the broker lists as *name*, closed at the end; to *url* alone, if given.

    Raises `BrokerError`.
    """
    connection = await Connection.open(
        url or settings.rabbitmq_url.get_secret_value(),
        name=name,
        heartbeat_seconds=settings.rabbitmq_heartbeat_seconds,
        ca_file=settings.rabbitmq_ca_file,
    )
    try:
        yield connection
    finally:
        await connection.close()


def desk_on(store: Store, settings: Settings, who: Who, clock: Clock) -> Desk:
    """Return the desk on *store* for one person; nothing is connected for it."""
    user = user_name(settings.rabbitmq_url)
    senders = Senders(settings.sender_users, frozenset((*settings.trusted_users, user)))
    return Desk(
        letters=LetterCollection(store),
        actions=ActionCollection(store),
        activities=StoredActivities(store),
        registry=Registry(store),
        reading=Reading(senders, max_message_bytes=settings.max_message_bytes, event_names=settings.event_names),
        clock=clock,
        who=who,
        user=user,
        max_replays=settings.max_replays,
        retention_ms=delay_seconds(settings.letter_retention) * 1000,
        read_only=settings.read_only,
        process=this_process(),
        has_ended=has_ended,
    )


def this_process() -> str:
    """Return the name of this process in jobs: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_ended(process: str) -> bool:
    """Tell whether a process, by its name in a job, is known to have ended: only those of this host are."""
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Sending(NamedTuple):
    """What a replay needs of the broker."""

    publisher: EventPublisher
    journal: JournalOutcomes


@asynccontextmanager
async def sending_on(
    publishing: Connection, reading: Connection, settings: Settings, clock: Clock, control: Control
) -> AsyncIterator[Sending]:
    """Yield what a replay needs, on two open connections; *control* is told of live traffic meanwhile."""
    user = user_name(settings.rabbitmq_url)
    publisher = await Publisher.open(publishing, confirm_timeout_ms=settings.confirm_timeout_ms, user_id=user)
    stream = Stream(reading, contract.OUTCOMES)
    live = LiveTraffic(stream, clock)
    control.live = live
    watching = asyncio.create_task(live.run(), name="watch live traffic")
    try:
        yield Sending(publisher, JournalOutcomes(stream))
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def explain_sources(store: Store, settings: Settings, name: str) -> explain.Sources:
    """Return where `explain` looks; the broker lists its connections as *name*."""
    search = StoreSearch(store)

    @asynccontextmanager
    async def journal() -> AsyncIterator[JournalStream]:
        async with broker_connection(settings, name) as connection:
            yield Stream(connection, contract.OUTCOMES)

    return explain.Sources(search, search, Registry(store), journal)


@dataclass(frozen=True, slots=True)
class _BrokerView:
    version: str
    queues: PassiveDepths
    journal: Stream


def status_sources(store: Store, settings: Settings, name: str) -> status.Sources:
    """Return where `status` looks; the broker lists its connections as *name*."""

    @asynccontextmanager
    async def broker() -> AsyncIterator[_BrokerView]:
        async with broker_connection(settings, name) as connection:
            version = ".".join(map(str, connection.server_version))
            yield _BrokerView(version, PassiveDepths(connection), Stream(connection, contract.OUTCOMES))

    return status.Sources(broker, ManagementDepths.of(settings), Overview(store), settings.retry_delays)
