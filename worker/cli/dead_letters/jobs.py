"""`jobs`: bulk operations, and stopping one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.dead_letters.opening import open_desk
from worker.cli.dead_letters.options import ActsAs, Json  # noqa: TC001 - read when the command is built
from worker.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.desk.ports import Document


_JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job: `dead-letters jobs` lists them.")]
_COUNTED: Final = ("counts", "outcomes")
_ANSWERS: Final = ("keepOrder", "force")
_OURS: Final = ("words", "chunks", "process")
_LINES_SHOWN: Final = 20


def jobs(
    limit: Annotated[int, typer.Option(help="Maximum number of jobs to print.", min=1, max=10_000)] = 20,
    as_json: Json = False,
) -> None:
    """List bulk operations, the newest first: who, when, why, which letters, and how they ended."""
    asyncio.run(_jobs(limit, as_json=as_json))


def show_job(job_id: _JobId, as_json: Json = False) -> None:
    """Show one bulk operation, with a line for each letter."""
    asyncio.run(_show_job(job_id, as_json=as_json))


def cancel(job_id: _JobId, acts_as: ActsAs = "") -> None:
    """Ask a running job to stop after the letters it has in hand."""
    asyncio.run(_cancel(job_id, acts_as))


async def _jobs(limit: int, *, as_json: bool) -> None:
    from worker.desk.jobs import jobs as find

    async with open_desk() as desk:
        found = await find(desk, limit)
    if as_json:
        print_json([_job_document(one) for one in found])
    elif found:
        columns = ("job", "kind", "state", "who", "started", "why", "letters", "counts")
        print_table(None, columns, [_job_row(one) for one in found], spare=("letters", "why", "started"))
    else:
        print_line("no bulk operations yet")


async def _show_job(job_id: str, *, as_json: bool) -> None:
    from worker.desk.audit import lines_of
    from worker.desk.jobs import job

    async with open_desk() as desk:
        found = await job(desk, job_id)
        if as_json:
            lines = [line async for line in lines_of(desk, job_id)]
            print_json({**_job_document(found), "lines": lines})
            return
        for name, value in facts(_job_document(found)):
            print_line(f"{name:<12} {value}")
        shown = 0
        async for line in lines_of(desk, job_id):
            shown += 1
            if shown > _LINES_SHOWN:
                print_line("… (all lines: --json)")
                break
            print_line(f"  {line}")


def facts(document: Document) -> list[tuple[str, str]]:
    """Return what there is to say about a job, in words: nothing that is empty, and no numbers of our own."""
    return [(name, _in_words(name, value)) for name, value in document.items() if value and name not in _OURS]


def _in_words(name: str, value: Any) -> str:
    if name in _COUNTED:
        return ", ".join(f"{number} {what}" for what, number in value.items())
    return "yes" if name in _ANSWERS else str(value)


async def _cancel(job_id: str, acts_as: str) -> None:
    from worker.desk.jobs import cancel as ask_to_stop

    async with open_desk(acts_as) as desk:
        await ask_to_stop(desk, job_id)
    print_line(f"job {job_id} will stop after the letters it has in hand")


def _job_document(document: Document) -> dict[str, Any]:
    from worker.desk.times import utc

    times = {name: utc(document[name]) for name in ("startedAt", "updatedAt", "endedAt") if document.get(name)}
    return {"id": document["_id"], **{name: value for name, value in document.items() if name != "_id"}, **times}


def _job_row(document: Document) -> Sequence[object]:
    from worker.desk.times import utc

    who = f"{document['user']} as {document['as']}" if document["as"] else document["user"]
    counts = [f"{number} {what}" for what, number in document["counts"].items()]
    return (
        document["_id"],
        document["kind"],
        document["state"],
        who,
        utc(document["startedAt"], timespec="seconds"),
        document["reason"],
        document["filter"],
        counts,
    )
