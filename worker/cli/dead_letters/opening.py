"""The desk for one command, with what it cannot do reported as the command's error."""

from __future__ import annotations

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
    from worker.desk.steps import Control
    from worker.opening import Sending
    from worker.settings import Settings


@asynccontextmanager
async def open_desk(acts_as: str = "", settings: Settings | None = None) -> AsyncIterator[Desk]:
    """Yield the desk of whoever runs this command; closed at the end. Raises `CommandError` for every failure."""
    from worker.desk.audit import system_user
    from worker.desk.desk import Who
    from worker.opening import desk_on
    from worker.process.clock import SystemClock

    settings = settings or command_settings()
    with desk_errors():
        async with open_store(settings) as store:
            yield desk_on(store, settings, Who(system_user(), acts_as), SystemClock())


@asynccontextmanager
async def open_sending(settings: Settings, control: Control) -> AsyncIterator[Sending]:
    """Yield what a replay needs of the broker; raises `CommandError` for every failure."""
    from worker.opening import sending_on
    from worker.process.clock import SystemClock

    async with (
        open_broker(settings) as publishing,
        open_broker(settings) as reading,
        sending_on(publishing, reading, settings, SystemClock(), control) as sending,
    ):
        yield sending


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
