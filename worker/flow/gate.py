"""Whether one kind of work on a dependency can be done now. An outage is not a message failure: work waits here.

Sick counts as down: a server that answers a ping and refuses writes is no use to a write. So the probe is the failed
work itself, done again with growing pauses, and the gate opens only when that succeeds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.codes import Disposition, Stage
from worker.failure import AdapterError, classify
from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.failure import Dependency, Failure
    from worker.flow.backoff import Backoff
    from worker.flow.outage import Outage
    from worker.ports import Clock

T = TypeVar("T")

_STEADY_SECONDS = 5.0
"""A gate that stayed open this long starts its next outage with the shortest pause."""


class Gate:
    """Open while *work* on *dependency* can be done."""

    def __init__(self, dependency: Dependency, work: str, *, outage: Outage, backoff: Backoff, clock: Clock) -> None:
        """Guard one kind of *work*; gates of one dependency share its *outage*."""
        self._dependency = dependency
        self._work = work
        self._outage = outage
        self._backoff = backoff
        self._clock = clock
        self._open = asyncio.Event()
        self._open.set()
        self._opened_at = clock.monotonic()
        self._probing: asyncio.Task[None] | None = None
        self.failure: Failure | None = None
        """Why it is closed; None while open."""

    @property
    def is_open(self) -> bool:
        """Whether the work was possible when last tried."""
        return self._open.is_set()

    @property
    def is_doubtful(self) -> bool:
        """Whether this work, or another kind on the same dependency, was not possible when last tried."""
        return self._outage.failure is not None

    async def wait(self) -> None:
        """Wait until the work is possible."""
        await self._open.wait()

    async def until_done(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do *operation*, again and again through an outage, until it was done; return its result.

        Raises what *operation* raises unless this dependency is at fault. It has to be idempotent.
        """
        while True:
            await self.wait()
            try:
                return await operation()
            except AdapterError as error:
                if not self.holds(error.failure):
                    raise
                attempt = _Attempt(operation, self)
                if self.close(error.failure, attempt.make):
                    await self.wait()
                    return attempt.result()

    def holds(self, failure: Failure) -> bool:
        """Tell whether *failure* says that this dependency cannot be used, so that work has to wait for it."""
        is_held = failure.failure_class.disposition is Disposition.HELD
        return is_held and failure.dependency is self._dependency

    def close(self, failure: Failure, probe: Callable[[], Awaitable[None]]) -> bool:
        """Say that the work failed. *probe* does it again: it returns when that succeeded, and raises when not.

        Returns False when the gate is closed already; then the earlier probe goes on.
        """
        if not self.is_open:
            return False
        if self._clock.monotonic() - self._opened_at > _STEADY_SECONDS:
            self._backoff.reset()
        self._open.clear()
        self._failed(failure)
        self._start(probe)
        return True

    def resume(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Go on probing, with *probe*, if the gate is closed and its probing was stopped."""
        if not self.is_open and (self._probing is None or self._probing.done()):
            self._start(probe)

    async def stop(self) -> None:
        """Stop probing; the gate stays as it is until somebody resumes."""
        if self._probing is not None:
            await cancel_and_wait([self._probing])

    def _start(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probing = asyncio.create_task(self._probe_until_open(probe), name=f"probe {self._work}")

    async def _probe_until_open(self, probe: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                await probe()
            except Exception as error:  # noqa: BLE001 - whatever a probe raises, it must not be the last one
                self._failed(classify(error, Stage.STORE))
                continue
            self.failure = None
            self._opened_at = self._clock.monotonic()
            self._open.set()
            self._outage.ended(work=self._work)
            return

    def _failed(self, failure: Failure) -> None:
        self.failure = failure
        self._outage.began(failure, work=self._work)


class _Attempt(Generic[T]):
    """An operation made as a probe, whose result is kept: an answer that is no outage ends the outage."""

    def __init__(self, operation: Callable[[], Awaitable[T]], gate: Gate) -> None:
        self._operation = operation
        self._gate = gate
        self._made: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def make(self) -> None:
        try:
            result = await self._operation()
        except AdapterError as error:
            if self._gate.holds(error.failure):
                raise
            self._made.set_exception(error)
        except Exception as error:  # noqa: BLE001 - for whoever waits for the result
            self._made.set_exception(error)
        else:
            self._made.set_result(result)

    def result(self) -> T:
        return self._made.result()
