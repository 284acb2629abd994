"""Bulk operations of everybody, from wherever they were started, and the audit."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from starlette.responses import RedirectResponse, Response

from worker.desk.audit import RUNNING, audit, lines_of
from worker.desk.jobs import cancel, job, jobs
from worker.desk.steps import Control
from worker.web.desk.render import Page
from worker.web.desk.tasks import Task

if TYPE_CHECKING:
    from collections import Counter

    from worker.desk.audit import Action
    from worker.web.desk.asked import Asked

_MOST: Final = 50
_MOST_LINES: Final = 200
_CAN_GO_ON: Final = frozenset({"interrupted", "stopped", "cancelled"})


async def listed(asked: Asked) -> Page:
    """Return the newest bulk operations, and what runs here."""
    found = await jobs(asked.desk, _MOST)
    return Page("jobs.html", "Jobs", jobs=found, tasks=asked.tasks.running(), now=asked.now)


async def show(asked: Asked) -> Page:
    """Return one bulk operation with its letters."""
    found = await job(asked.desk, asked.path("job_id"))
    lines: list[str] = []
    async for line in lines_of(asked.desk, found["_id"]):
        lines.append(line)
        if len(lines) > _MOST_LINES:
            break
    is_running = found["state"] == RUNNING
    template = "_job.html" if asked.text("part") else "job.html"
    return Page(
        template,
        f"Job {found['_id']}",
        job=found,
        lines=list(islice(lines, _MOST_LINES)),
        is_cut=len(lines) > _MOST_LINES,
        is_running=is_running,
        can_go_on=found["kind"] == "replay" and found["state"] in _CAN_GO_ON,
        now=asked.now,
    )


async def stop(asked: Asked) -> Response:
    """Ask a bulk operation to stop after the letters it has in hand."""
    found = await cancel(asked.desk, asked.path("job_id"))
    return RedirectResponse(f"/jobs/{found['_id']}", 303)


async def go_on(asked: Asked) -> Response:
    """Go on with a replay that ended early."""
    desk, job_id = asked.desk, asked.path("job_id")
    desk.check_may_change("", needs_reason=False)
    found = await job(desk, job_id)
    command = f"cim-worker dead-letters replay --resume {found['_id']}"
    task = Task("replay", f"Go on with {found['_id']}", command, {"chosen": None})
    task.can_stop = True

    def progress(counts: Counter[str]) -> None:
        task.counts, task.done = dict(counts), counts["sent"]

    async def work(task: Task) -> Action:
        return await asked.office.resume(desk, job_id, Control(progress=progress, stop=task.stop))

    asked.tasks.start(task, work)
    return RedirectResponse(f"/tasks/{task.id}", 303)


async def audited(asked: Asked) -> Page:
    """Return who did what, when and why."""
    return Page("audit.html", "Audit", actions=await audit(asked.desk, 2 * _MOST), now=asked.now)
