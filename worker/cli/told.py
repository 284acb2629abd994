"""What publishers were told of their messages: receipts, counted by outcome."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, progress

if TYPE_CHECKING:
    from worker.rabbit.errors import BrokerError


class Told:
    """The receipts of one command: the first for each message counts, for in doubt one comes twice."""

    def __init__(self) -> None:
        self._receipts: dict[str, tuple[str, str]] = {}
        self._came = asyncio.Event()
        self._asked = 0

    def add(self, correlation_id: str, body: bytes) -> None:
        """Take one receipt."""
        receipt: dict[str, Any] = json.loads(body)
        why = receipt.get("reason") or receipt.get("code") or ""
        self._receipts.setdefault(correlation_id, (str(receipt.get("outcome")), str(why)))
        self._came.set()

    def ask(self, count: int) -> None:
        """Note that the broker has *count* messages more that receipts are expected for."""
        self._asked += count

    async def wait(self, seconds: float, closed: asyncio.Future[BrokerError]) -> None:
        """Wait for the receipts, until none came for *seconds*. Raises why the broker's channel *closed*."""
        with progress() as bar:
            task = bar.add_task("receipts", total=self._asked)
            while self._missing:
                bar.update(task, completed=len(self._receipts))
                self._came.clear()
                coming = asyncio.ensure_future(self._came.wait())
                ends: list[asyncio.Future[Any]] = [coming, closed]
                await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if closed.done():
                    raise closed.result()
                if not coming.done():
                    coming.cancel()
                    return

    def rows(self) -> list[tuple[str, str, int]]:
        """Return outcome, why, and how many, the most frequent first; then those without a receipt."""
        counts = Counter(self._receipts.values()).most_common()
        return [(*kind, count) for kind, count in counts] + (
            [("no receipt", "", self._missing)] if self._missing else []
        )

    def as_document(self) -> list[dict[str, object]]:
        """Return `rows` for programs."""
        return [dict(zip(("outcome", "why", "messages"), row, strict=True)) for row in self.rows()]

    def problem(self) -> CommandError | None:
        """Return what the user has to know, if anything."""
        dead = sum(outcome == "dead" for outcome, _ in self._receipts.values())
        if dead:
            return CommandError(ExitCode.REJECTED, f"{counted(dead, 'message')} dead: see `cim-worker dead-letters`")
        if self._missing:
            fix = "is a worker running, and CIM_RECEIPTS not off? see `cim-worker status`"
            return CommandError(
                ExitCode.NOT_FOUND, f"no receipt in time for {counted(self._missing, 'message')}; {fix}"
            )
        return None

    @property
    def _missing(self) -> int:
        return max(0, self._asked - len(self._receipts))  # what was not confirmed may have arrived all the same
