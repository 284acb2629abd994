"""Bulk operations after the fact: which there were, how they ended, and telling one to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.desk.audit import RUNNING, action_of
from worker.desk.errors import rejected
from worker.desk.filter import Filter, parse_filter

if TYPE_CHECKING:
    from worker.desk.desk import Desk
    from worker.desk.ports import Document

KINDS: Final = ("replay", "fix", "discard", "restore", "purge", "import")
"""Kinds of actions that are bulk operations."""
INTERRUPTED: Final = "interrupted"
STOPPED: Final = "stopped"
_SILENT_MS: Final = 30_000
"""A job that says it runs and has written nothing for so long is not running any more."""


async def jobs(desk: Desk, limit: int = 20) -> list[Document]:
    """Return the newest bulk operations, each with its `state`: running, done, stopped, cancelled or interrupted."""
    return [with_state(desk, one) for one in await desk.actions.latest(limit, kinds=KINDS)]


async def job(desk: Desk, job_id: str) -> Document:
    """Return one of them. Raises `DeskError` when there is none of that id."""
    return with_state(desk, await action_of(desk, job_id))


async def cancel(desk: Desk, job_id: str) -> Document:
    """Ask a running job to stop after the letters it has in hand. Raises `DeskError` when it does not run."""
    desk.check_may_change("", needs_reason=False)
    found = await job(desk, job_id)
    if found["state"] != RUNNING:
        raise rejected(f"job {job_id} is not running: it is {found['state']}")
    await desk.actions.update(job_id, {"cancelledBy": str(desk.who)})
    return found


def with_state(desk: Desk, document: Document) -> Document:
    """Return a job as it is: one that was killed could not write that down itself."""
    if document["state"] != RUNNING:
        return document
    silent = desk.clock.now_ms() - document["updatedAt"] > _SILENT_MS
    return {**document, "state": INTERRUPTED} if silent or desk.has_ended(document.get("process", "")) else document


def filter_of(document: Document, now: int) -> Filter:
    """Return the filter that a job was begun with."""
    words: dict[str, list[str]] = {}
    letters = []
    for word in document["words"]:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and equals:
            words.setdefault(name, []).append(value)
        else:
            letters.append(word)
    made = parse_filter(words, now=now)
    return Filter(made.equal, tuple(letters), made.since, made.until, made.status, made.where)
