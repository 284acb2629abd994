"""Who did what to which letters, when and why: every change is an action with counts and one line per letter."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Self

from worker.desk.errors import not_found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from worker.desk.desk import Desk
    from worker.desk.ports import Document

LINES_AT_ONCE: Final = 500
"""Lines in one chunk of the audit."""
RUNNING: Final = "running"
DONE: Final = "done"
CANCELLED: Final = "cancelled"
_ID_BYTES: Final = 4


class Action:
    """One action under way: its document is written when it begins and when it ends, its lines in chunks."""

    def __init__(self, desk: Desk, document: Document) -> None:
        """Use `begin`, or `of` for one that exists."""
        self._desk = desk
        self.document = document
        self.counts: Counter[str] = Counter(document.get("counts", {}))
        """Letters by what was done to them."""
        self._lines: list[str] = []
        self._writing = asyncio.Lock()
        self._chunks: int = document.get("chunks", 0)

    @classmethod
    async def begin(cls, desk: Desk, kind: str, reason: str, **facts: Any) -> Self:
        """Write down that an action begins: `kind`, why, and further *facts* (texts and integers, no payload).

        Raises `DeskError` when nothing may be changed: whatever is worth an entry is not for those who only read.
        """
        desk.check_may_change("", needs_reason=False)
        now = desk.clock.now_ms()
        document: Document = {
            "_id": secrets.token_hex(_ID_BYTES),
            "kind": kind,
            "state": RUNNING,
            "user": desk.who.user,
            "as": desk.who.acts_as,
            "process": desk.process,
            "reason": reason,
            "startedAt": now,
            "updatedAt": now,
            "endedAt": None,
            "counts": {},
            "chunks": 0,
            **facts,
        }
        await desk.actions.put(document)
        return cls(desk, document)

    @property
    def id(self) -> str:
        """Eight hex digits."""
        return str(self.document["_id"])

    def note(self, letter_id: str, what: str) -> None:
        """Count one letter, and keep its line for the next `flush`."""
        self.counts[what] += 1
        self._lines.append(f"{letter_id} {what}")

    async def flush(self, **facts: Any) -> None:
        """Write the lines that were noted, and the counts so far, with *facts* of the action that changed."""
        async with self._writing:  # or what is older might be written last
            await self._flush(facts)

    async def _flush(self, facts: Mapping[str, Any]) -> None:
        while self._lines:
            chunk, self._lines = self._lines[:LINES_AT_ONCE], self._lines[LINES_AT_ONCE:]
            self._chunks += 1
            number = f"{self.id}-{self._chunks:06}"
            at = self._desk.clock.now_ms()
            await self._desk.actions.put(
                {"_id": number, "kind": "lines", "jobId": self.id, "startedAt": at, "lines": chunk}
            )
        self.document |= facts
        self.document |= {
            "counts": dict(self.counts),
            "chunks": self._chunks,
            "updatedAt": self._desk.clock.now_ms(),
        }
        names = ("counts", "chunks", "updatedAt", *facts)
        await self._desk.actions.update(self.id, {name: self.document[name] for name in names})

    async def was_cancelled(self) -> bool:
        """Tell whether somebody has asked it to stop (`jobs.cancel`); it has ended then, and says who that was."""
        document = await self._desk.actions.get(self.id)
        if document is None or not document.get("cancelledBy"):
            return False
        await self.end(CANCELLED, why=f"cancelled by {document['cancelledBy']}")
        return True

    async def end(self, state: str = DONE, **facts: Any) -> None:
        """Write what is left, and that the action ended in *state*."""
        await self.flush(state=state, endedAt=self._desk.clock.now_ms(), **facts)


async def audit(desk: Desk, limit: int = 100) -> list[Document]:
    """Return the newest actions: `_id`, `kind`, `state`, `user`, `as`, `reason`, `filter`, times and `counts`."""
    return await desk.actions.latest(limit)


async def action_of(desk: Desk, action_id: str) -> Document:
    """Return one action. Raises `DeskError` when there is none of that id."""
    found = await desk.actions.get(action_id)
    if found is None:
        raise not_found(f"there is no job or action {action_id}; see `cim-worker dead-letters jobs`")
    return found


async def lines_of(desk: Desk, action_id: str) -> AsyncIterator[str]:
    """Yield the lines of an action: the id of a letter, and what was done to it."""
    async for chunks in desk.actions.lines(action_id):
        for chunk in chunks:
            for line in chunk["lines"]:
                yield line


async def revealed(desk: Desk, letter_id: str) -> None:
    """Write down that somebody saw a payload unmasked."""
    action = await Action.begin(desk, "reveal", "", filter=letter_id)
    action.note(letter_id, "revealed")
    await action.end()


def system_user() -> str:
    """Return who runs this; in a container a user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
