"""Deletes the exchanges of closed conversations when their grace is over, however many and whoever closed them."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING

from worker.codes import Code
from worker.conversations.conversation import ConversationRecord
from worker.failure import Failure, classify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.conversations.convergence import Convergence
    from worker.conversations.conversation import UnreadableRecord
    from worker.conversations.ports import RegistryPort
    from worker.flow.gate import Gate
    from worker.ports import Clock, Reporter

_ROUND_SECONDS = 0.5
_BUNDLE = 500
_AGAIN_MS = 60_000
"""How long a deletion that failed waits for the next try."""
_MAX_WAITING = 10_000
"""Leftovers are read from the registry in pages, and only while fewer deletions than this wait."""


class Reaper:
    """Remembers when each exchange is due; the last close of a conversation counts."""

    def __init__(
        self,
        *,
        registry: RegistryPort,
        convergence: Convergence,
        gate: Gate,
        grace_ms: int,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self._registry = registry
        self._convergence = convergence
        self._gate = gate
        self._grace_ms = grace_ms
        self._clock = clock
        self._reporter = reporter
        self._due: dict[str, int] = {}
        """Epoch milliseconds, the earliest first: every change puts its conversation at the end."""
        self._kept: dict[str, int] = {}
        """Those that could not be deleted, with the time of their next try, likewise."""
        self._look_back = asyncio.Event()

    def changed(self, record: ConversationRecord) -> None:
        """Take note of a conversation that was opened or closed."""
        self._due.pop(record.id, None)
        self._kept.pop(record.id, None)
        if not record.active and record.has_exchange:
            self._due[record.id] = self._clock.now_ms() + self._grace_ms

    def look_back(self) -> None:
        """Find what a process before us did not live to delete, once, and beside the rest."""
        self._look_back.set()

    async def run(self) -> None:
        """Delete until cancelled."""
        await asyncio.gather(self._delete_due(), self._find_leftovers())

    async def _delete_due(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            while due := self._next_due():
                await self._delete(due)

    def _next_due(self) -> list[str]:
        now = self._clock.now_ms()
        due: list[str] = []
        for times in (self._due, self._kept):
            ready = itertools.takewhile(lambda item: item[1] <= now, times.items())
            due += [conversation_id for conversation_id, _ in itertools.islice(ready, _BUNDLE)]
        return due

    async def _delete(self, conversation_ids: list[str]) -> None:
        try:
            failures = await self._gate.until_done(partial(self._convergence.delete_closed, conversation_ids))
        except Exception as error:  # noqa: BLE001 - what nobody foresaw ends this round, not the others
            failures = dict.fromkeys(conversation_ids, classify(error))
        for conversation_id in conversation_ids:
            self._due.pop(conversation_id, None)
            self._kept.pop(conversation_id, None)
        for conversation_id, failure in failures.items():
            self._keep(conversation_id, failure)

    def _keep(self, conversation_id: str, failure: Failure) -> None:
        self._reporter.warn(
            "conversation_exchange_kept",
            conversation_id=conversation_id,
            code=failure.code.value,
            reason=failure.detail,
        )
        if failure.code is not Code.EXCHANGE_TAKEN:
            self._kept[conversation_id] = self._clock.now_ms() + _AGAIN_MS

    async def _find_leftovers(self) -> None:
        while True:
            await self._look_back.wait()
            self._look_back.clear()
            page = await self._leftovers("")
            while page:
                for record in page:
                    if isinstance(record, ConversationRecord) and record.id not in self._due:
                        self.changed(record)
                while len(self._due) > _MAX_WAITING:  # noqa: ASYNC110 - a bound, not an event
                    await asyncio.sleep(_ROUND_SECONDS)
                page = await self._leftovers(page[-1].id)

    async def _leftovers(self, after: str) -> Sequence[ConversationRecord | UnreadableRecord]:
        return await self._gate.until_done(
            lambda: self._registry.with_exchange(active=False, limit=_BUNDLE, after=after)
        )
