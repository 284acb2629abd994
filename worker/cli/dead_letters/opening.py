"""The desk for one command: store, registry, today's rules, and where needed the broker."""

from __future__ import annotations

import os
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.services import command_settings, open_broker, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.live import JournalOutcomes, LiveTraffic
    from worker.mongo.client import Store
    from worker.ports import EventPublisher
    from worker.rabbit.connection import Connection
    from worker.settings import Settings


@asynccontextmanager
async def open_desk(acts_as: str = "", settings: Settings | None = None) -> AsyncIterator[Desk]:
    """Yield the desk of whoever runs this command; closed at the end. Raises `CommandError` for every failure."""
    from worker.desk.audit import system_user

    settings = settings or command_settings()
    with desk_errors():
        async with open_store(settings) as store:
            yield desk_on(store, settings, system_user(), acts_as)


def desk_on(store: Store, settings: Settings, user: str, acts_as: str = "") -> Desk:
    """Return the desk on *store* for the person *user*; nothing is connected for it."""
    from worker.addresses import user_name
    from worker.desk.desk import Desk, Who
    from worker.mongo.letters import LetterCollection
    from worker.mongo.operator_actions import ActionCollection
    from worker.mongo.registry import Registry
    from worker.mongo.stored_activities import StoredActivities
    from worker.pipeline.reading import Reading
    from worker.pipeline.senders import Senders
    from worker.process.clock import SystemClock
    from worker.settings import delay_seconds

    broker_user = user_name(settings.rabbitmq_url)
    senders = Senders(settings.sender_users, frozenset((*settings.trusted_users, broker_user)))
    return Desk(
        letters=LetterCollection(store),
        actions=ActionCollection(store),
        activities=StoredActivities(store),
        registry=Registry(store),
        reading=Reading(senders, max_message_bytes=settings.max_message_bytes, event_names=settings.event_names),
        clock=SystemClock(),
        who=Who(user, acts_as),
        user=broker_user,
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


class Sending:
    """What a replay needs of the broker."""

    def __init__(self, publisher: EventPublisher, journal: JournalOutcomes, live: LiveTraffic) -> None:
        self.publisher = publisher
        self.journal = journal
        self.live = live


@asynccontextmanager
async def open_sending(settings: Settings) -> AsyncIterator[Sending]:
    """Yield a publisher, and the journal on a connection of its own; raises `CommandError` for every failure."""
    async with open_broker(settings) as publishing, open_broker(settings) as reading:
        yield await sending_on(publishing, reading, settings)


async def sending_on(publishing: Connection, reading: Connection, settings: Settings) -> Sending:
    """Return what a replay needs, on two open connections."""
    from worker.addresses import user_name
    from worker.contract import OUTCOMES
    from worker.desk.live import JournalOutcomes, LiveTraffic
    from worker.process.clock import SystemClock
    from worker.rabbit.publisher import Publisher
    from worker.rabbit.stream import Stream

    user = user_name(settings.rabbitmq_url)
    publisher = await Publisher.open(publishing, confirm_timeout_ms=settings.confirm_timeout_ms, user_id=user)
    stream = Stream(reading, OUTCOMES)
    return Sending(publisher, JournalOutcomes(stream), LiveTraffic(stream, SystemClock()))


@contextmanager
def desk_errors() -> Iterator[None]:
    """Report what the desk cannot do as the command's error, with its exit code."""
    from worker.desk.errors import DeskError, Kind

    codes = {Kind.USAGE: ExitCode.CONFIGURATION, Kind.NOT_FOUND: ExitCode.NOT_FOUND, Kind.REJECTED: ExitCode.REJECTED}
    try:
        yield
    except DeskError as error:
        raise CommandError(codes[error.kind], str(error)) from None


async def chosen_by(desk: Desk, names: Sequence[str], words: Mapping[str, Any]) -> Filter:
    """Return the filter of a command line; raises `DeskError`."""
    from worker.desk.filter import parse_filter
    from worker.desk.query import resolve

    return await resolve(desk, names, parse_filter(words, now=now_ms()))


def now_ms() -> int:
    """Return epoch milliseconds."""
    return time.time_ns() // 1_000_000
