"""Whether a dependency can be used now. A dependency that is down is not a message failure: work waits here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.codes import Stage
from worker.failure import classify
from worker.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.failure import Failure

_FIRST_PROBE_SECONDS = 0.1
_LONGEST_PROBE_SECONDS = 2.0
"""Short enough that full speed is back well within five seconds of the dependency's return."""


class Gate:
    """Open while the dependency answers. Closing starts probing, with jittered back-off, until it answers again."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        *,
        random: Callable[[], float],
        clock: Callable[[], float],
        on_close: Callable[[str, Failure], None],
        on_open: Callable[[str, float], None],
    ) -> None:
        """Guard the dependency *name*.

        Args:
            name: for logs and metrics.
            probe: answers if the dependency does, raises if not.
            random: uniform numbers in [0, 1) for the jitter.
            clock: monotonic seconds.
            on_close: told once per outage, with its failure.
            on_open: told once when it is over, with its seconds.
        """
        self.name = name
        self._probe = probe
        self._random = random
        self._clock = clock
        self._on_close = on_close
        self._on_open = on_open
        self._open = asyncio.Event()
        self._open.set()
        self._probing: asyncio.Task[None] | None = None
        self.failure: Failure | None = None
        """Why it is closed; None while open."""

    @property
    def is_open(self) -> bool:
        """Whether the dependency was fine when last heard of."""
        return self._open.is_set()

    async def wait(self) -> None:
        """Wait until the dependency can be used."""
        await self._open.wait()

    def close(self, failure: Failure) -> None:
        """Say that the dependency failed. Closing a closed gate does nothing."""
        if not self.is_open:
            return
        self.failure = failure
        self._open.clear()
        self._on_close(self.name, failure)
        self._probing = asyncio.create_task(self._probe_until_open(self._clock()), name=f"probe {self.name}")

    async def stop(self) -> None:
        """Stop probing; the gate stays as it is."""
        if self._probing is not None:
            await cancel_and_wait([self._probing])

    async def _probe_until_open(self, since: float) -> None:
        longest = _FIRST_PROBE_SECONDS
        while True:
            await asyncio.sleep(longest * (0.5 + self._random() / 2))
            longest = min(longest * 2, _LONGEST_PROBE_SECONDS)
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever a probe raises, it must not be the last one
                self.failure = classify(error, Stage.STORE)
                continue
            self.failure = None
            self._open.set()
            self._on_open(self.name, self._clock() - since)
            return
