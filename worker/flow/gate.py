"""Whether a dependency can be used now. A dependency that is down is not a message failure: work waits here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from worker.codes import Disposition, Stage
from worker.failure import AdapterError, classify
from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.failure import Dependency, Failure
    from worker.flow.backoff import Backoff
    from worker.flow.outage import Outage

T = TypeVar("T")


class Gate:
    """Open while the dependency answers. Closing starts probing, with growing pauses, until it answers again."""

    def __init__(
        self, dependency: Dependency, probe: Callable[[], Awaitable[None]], *, outage: Outage, backoff: Backoff
    ) -> None:
        """Guard *dependency*; *probe* returns if it answers and raises if not."""
        self._dependency = dependency
        self._probe = probe
        self._outage = outage
        self._backoff = backoff
        self._open = asyncio.Event()
        self._open.set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the dependency was fine when last heard of."""
        return self._open.is_set()

    @property
    def failure(self) -> Failure | None:
        """Why it is closed; None while open."""
        return self._outage.failure

    async def wait(self) -> None:
        """Wait until the dependency can be used."""
        await self._open.wait()

    async def until_done(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run *operation* when the gate is open, and again after an outage that it met; return its result.

        Raises what *operation* raises unless this dependency is at fault.
        """
        while True:
            await self.wait()
            try:
                return await operation()
            except AdapterError as error:
                if not self.holds(error.failure):
                    raise
                self.close(error.failure)

    def holds(self, failure: Failure) -> bool:
        """Tell whether *failure* says that this dependency cannot be used, so that work has to wait for it."""
        is_held = failure.failure_class.disposition is Disposition.HELD
        return is_held and failure.dependency is self._dependency

    def close(self, failure: Failure) -> None:
        """Say that the dependency failed. Closing a closed gate does nothing."""
        if not self.is_open:
            return
        self._open.clear()
        self._outage.began(failure)
        self._probing = asyncio.create_task(self._probe_until_open(), name="probe")

    async def stop(self) -> None:
        """Stop probing; the gate stays as it is."""
        if self._probing is not None:
            await cancel_and_wait([self._probing])

    async def _probe_until_open(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever a probe raises, it must not be the last one
                self._outage.began(classify(error, Stage.STORE))
                continue
            self._backoff.reset()
            self._open.set()
            self._outage.ended()
            return
