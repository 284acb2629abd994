"""Publishing letters to where they came from: claimed, published, confirmed, marked, audited; page by page.

A letter is claimed by compare and set, so two people never send the same one. What was claimed and not confirmed is
found again by the job's id: `resume` looks it up in store and journal, and sends it again with the same id where
neither knows it. So at most one page is sent twice, and the identity of its events makes that harmless.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from worker.dead_letters.letter import Status
from worker.desk import jobs
from worker.desk.audit import Action
from worker.desk.errors import rejected, usage
from worker.desk.options import Options
from worker.desk.outcomes import refresh
from worker.desk.steps import Control, Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.ports import Document, ReplayOutcomes
    from worker.ports import EventPublisher

_USUAL: Final = Options()


async def replay(
    desk: Desk,
    publisher: EventPublisher,
    journal: ReplayOutcomes | None,
    chosen: Filter,
    reason: str,
    options: Options = _USUAL,
    *,
    plan_hash: str = "",
    control: Control | None = None,
) -> Action:
    """Replay the letters *chosen* and return the job: its `document["state"]`, `["why"]` and counts.

    States: `done`; `stopped` by itself, `why` says why; `cancelled`; `interrupted` when the broker was lost, and then
    `resume` goes on. Raises `DeskError` before anything was sent, and `Interrupted` when the store went away.
    """
    desk.check_may_change(reason)
    chosen = chosen.to_be("replayed")
    facts = {"filter": str(chosen), "words": chosen.words(), "planHash": plan_hash, "why": "", **options.facts()}
    action = await Action.begin(desk, "replay", reason, **facts)
    return await Run(desk, publisher, journal, action, options, control or Control()).run(chosen)


async def resume(
    desk: Desk,
    publisher: EventPublisher,
    journal: ReplayOutcomes | None,
    job_id: str,
    *,
    changes: Mapping[str, Any] | None = None,
    control: Control | None = None,
) -> Action:
    """Go on with a job that was interrupted, stopped or cancelled. Raises `DeskError` for one that runs or is done.

    *changes*: fields of its `Options` that are others from now on. Letters that were claimed and whose confirm is not
    known are looked up in store, journal and dead letters first, and are sent again with the same id where none of them
    knows it. Of a job that is done, missing outcomes are looked up.
    """
    desk.check_may_change("", needs_reason=False)
    document = await jobs.job(desk, job_id)
    if document["kind"] != "replay":
        raise usage(f"{job_id} is a {document['kind']}, not a replay: begin it again for the letters that are left")
    action = Action(desk, document)
    if document["state"] == "done":
        return await _look_up(desk, journal, action)
    if document["state"] == "running":
        raise rejected(f"job {job_id} is running: stop it first with `cim-worker dead-letters jobs cancel {job_id}`")
    options = replace(Options.of(document), **(changes or {}))
    facts = {"state": "running", "why": "", "endedAt": None, "cancelledBy": "", "resumedBy": str(desk.who)}
    mine: Document = {**facts, **options.facts(), "process": desk.process, "updatedAt": desk.clock.now_ms()}
    if not await desk.actions.update(job_id, mine, {"updatedAt": document["updatedAt"]}):
        raise rejected(f"job {job_id} has just been resumed by somebody else")
    await action.flush(**mine)
    job = Run(desk, publisher, journal, action, options, control or Control())
    return await job.run(jobs.filter_of(document, desk.clock.now_ms()).of_status(Status.OPEN), again=True)


async def _look_up(desk: Desk, journal: ReplayOutcomes | None, action: Action) -> Action:
    """Find the outcomes that the letters of a job that is done do not say. Raises `DeskError` when they say all."""
    query = {"jobId": action.id, "status": Status.REPLAYED.value}
    if not await desk.letters.counts(query, "status"):
        raise rejected(f"job {action.id} is done: there is nothing to resume")
    await refresh(desk, journal, query)
    await action.end(outcomes=await desk.letters.counts({"jobId": action.id}, "status"))
    return action
