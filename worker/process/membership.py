"""One process as a member of its pool: it writes down how it is, and hears whether an operator paused the pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from worker import __version__
from worker.failure import AdapterError, OperatorFault
from worker.mongo.pools import PoolProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.flow.pause import Pause, PauseState
    from worker.mongo.pools import Pools
    from worker.ports import Clock, Reporter

_LOOK_SECONDS: Final = 2.0
"""How soon a process hears that its pool was paused."""
_WRITE_SECONDS: Final = 10.0
_FORGET_SECONDS: Final = 300.0
_LEAVE_SECONDS: Final = 1.0


class Membership:
    """Keeps the entry of this process in its pool's document, and the pause as it stands there.

    While the store is away, the pause stays as it was last known.
    """

    def __init__(
        self,
        pools: Pools,
        pool: str,
        *,
        index: int,
        pause: Pause,
        facts: Callable[[], dict[str, Any]],
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        """Be process *index* of *pool*, and say what *facts* returns."""
        self._pools = pools
        self._pool = pool
        self._pause = pause
        self._facts = facts
        self._clock = clock
        self._reporter = reporter
        self._process = PoolProcess(socket.gethostname(), os.getppid(), index, os.getpid())
        self._fixed = {"version": __version__, "startedAt": clock.now_ms()}
        self._said_refused = False
        self._wrote_at = self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Look and write until cancelled; no failure of the store ends it."""
        while True:
            try:
                self._heard(await self._pools.state(self._pool))
                await self._write()
            except OperatorFault as error:
                self._refused(error)
            except AdapterError:
                pass  # an outage, which others report; the pause stays as it was last known
            await asyncio.sleep(_LOOK_SECONDS)

    async def leave(self) -> None:
        """Take the entry away, if the store answers at once."""
        with contextlib.suppress(AdapterError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._pools.leave(self._pool, self._process)

    def write_soon(self) -> None:
        """Write at the next look: something changed that others wait for."""
        self._wrote_at = float("-inf")

    def _refused(self, error: OperatorFault) -> None:
        if not self._said_refused:
            self._said_refused = True
            self._reporter.warn("pool_refused", reason=error.failure.detail)

    def _heard(self, state: PauseState) -> None:
        if not self._pause.set(state):
            return
        self.write_soon()
        if state.is_paused:
            self._reporter.warn("paused", by=state.by, reason=state.reason)
        else:
            self._reporter.info("resumed")

    async def _write(self) -> None:
        now = self._clock.monotonic()
        if now - self._wrote_at >= _WRITE_SECONDS:
            facts = {**self._fixed, "paused": self._pause.is_closed, **self._facts()}
            await self._pools.report(self._pool, self._process, facts, self._clock.now_ms())
            self._wrote_at = now
        if now - self._forgot_at >= _FORGET_SECONDS:
            await self._pools.forget_gone(self._pool, self._clock.now_ms())
            self._forgot_at = now
