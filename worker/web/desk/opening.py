"""What the page works with: the store for as long as the server runs, the broker when it is needed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from worker.desk.desk import Who
from worker.desk.replay import replay, resume
from worker.desk.status import Observer
from worker.opening import broker_connection, desk_on, explain_sources, sending_on, status_sources, store_of
from worker.web.desk.fresh import Fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.desk.audit import Action
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.options import Options
    from worker.desk.status import Report
    from worker.desk.steps import Control
    from worker.opening import Sending
    from worker.ports import Clock
    from worker.settings import Settings

_NAME: Final = "cim-worker desk"
_WINDOW_MS: Final = 300_000
"""How far back outcomes are counted at the top of each page."""


class Office:
    """Everything a page works with. One for each server; `close` it at the end."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Nothing is connected to before it is needed. Raises `OperatorFault` for a store address that is none."""
        self.settings = settings
        self.clock = clock
        self._store = store_of(settings, _NAME)
        self._desk = desk_on(self._store, settings, Who(""), clock)
        self.fresh = Fresh()
        self.sources = explain_sources(self._store, settings, _NAME)
        """For `explain`."""
        self._observer = Observer(status_sources(self._store, settings, _NAME), _WINDOW_MS)

    def desk(self, user: str, *, may_change: bool) -> Desk:
        """Return the desk for one person."""
        read_only = self.settings.read_only or not may_change
        return replace(self._desk, who=Who(user), read_only=read_only)

    async def look(self) -> Report:
        """Return how the pool is doing now. Not to be called twice at the same time."""
        return await self._observer.look(self.clock.now_ms())

    async def close(self) -> None:
        """Close the store's connections."""
        await self._store.close()

    async def replay(
        self, desk: Desk, chosen: Filter, reason: str, options: Options, plan_hash: str, control: Control
    ) -> Action:
        """Replay letters over connections of its own, and watch live traffic meanwhile. Raises as `replay` does."""
        async with self._sending(control) as (publisher, journal):
            return await replay(desk, publisher, journal, chosen, reason, options, plan_hash=plan_hash, control=control)

    async def resume(self, desk: Desk, job_id: str, control: Control) -> Action:
        """Go on with a replay that ended early. Raises as `resume` does."""
        async with self._sending(control) as (publisher, journal):
            return await resume(desk, publisher, journal, job_id, control=control)

    @asynccontextmanager
    async def _sending(self, control: Control) -> AsyncIterator[Sending]:
        async with (
            broker_connection(self.settings, _NAME) as publishing,
            broker_connection(self.settings, _NAME) as reading,
            sending_on(publishing, reading, self.settings, self.clock, control) as sending,
        ):
            yield sending
