"""A connection beside those of a session, for what may fail without ending the session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.rabbit.connection import Connection


class ConnectionBeside:
    """Opened when it is first needed, and again when it has ended, which ends nothing else."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Open it with *connect*."""
        self._connect = connect
        self._opening: asyncio.Task[Connection] | None = None

    async def get(self) -> Connection:
        """Return the open connection. Who waits no longer leaves the opening going on. Raises `BrokerError`."""
        if self._opening is None or (self._opening.done() and self._opened is None):
            self._opening = asyncio.create_task(self._open(), name="open a connection")
        return await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Open it no more; who made the connection closes it."""
        if self._opening is not None:
            await cancel_and_wait([self._opening])

    async def _open(self) -> Connection:
        return await self._connect()

    @property
    def _opened(self) -> Connection | None:
        task = self._opening
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result() if task.result().is_open else None
