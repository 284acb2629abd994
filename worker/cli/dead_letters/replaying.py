"""Commands that predict and replay, and the jobs that came of it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.dead_letters.opening import chosen_by, desk_errors, open_desk, open_sending
from worker.cli.dead_letters.options import ActsAs, Json, Reason, Yes, ask, filtered, needs_reason
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_json, print_line, print_table, progress
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence

    from worker.desk.audit import Action
    from worker.desk.desk import Desk
    from worker.desk.edit import Rules
    from worker.desk.filter import Filter
    from worker.desk.options import Options
    from worker.desk.plan import Plan
    from worker.desk.ports import Document
    from worker.desk.steps import Control
    from worker.failure import Failure
    from worker.settings import Settings

_Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="As if it were fixed so before.")]
_Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="As if it were fixed so before.")]
_Rename = Annotated[list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="As if it were fixed so.")]
_Limit = Annotated[int | None, typer.Option(help="At most so many letters.", min=1, max=10**9)]
_Force = Annotated[bool, typer.Option("--force", help="Also letters that were replayed CIM_MAX_REPLAYS times.")]
_JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job: `dead-letters jobs` lists them.")]
_LINES_SHOWN: Final = 20


@filtered
def plan(
    names: list[str],
    words: dict[str, Any],
    *,
    set_: _Set = None,
    unset: _Unset = None,
    rename: _Rename = None,
    limit: _Limit = None,
    force: _Force = False,
    as_json: Json = False,
) -> None:
    """Predict what a replay would do now: today's code runs on the letters, and nothing is touched.

    Counts what would be published, stored (and why), is stored already, would die for the same or another reason, and
    would arrive after newer activities of its conversation. With --set, --unset and --rename as if fixed so before.
    """
    from worker.desk.edit import parse_rules

    rules = None
    if set_ or unset or rename:
        with desk_errors():
            rules = parse_rules(set_=set_ or (), unset=unset or (), rename=rename or (), force=True)
    asyncio.run(_plan(names, words, rules, limit, force=force, as_json=as_json))


@filtered
def replay(
    names: list[str],
    words: dict[str, Any],
    *,
    limit: _Limit = None,
    rate: Annotated[float | None, typer.Option(help="At most so many letters a second.", min=0.01)] = None,
    ramp: Annotated[str, typer.Option(help="1,10,100: wait for the outcomes of each step, then send the rest.")] = "",
    max_failures: Annotated[
        str, typer.Option(help="More letters of a step that die again stop the ramp: a number, or a share as 5%.")
    ] = "5%",
    wait: Annotated[float, typer.Option(help="Longest to wait for outcomes, in seconds.", min=0)] = 60,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="A conversation's letters one after the other; hold outdated ones.")
    ] = False,
    resume: Annotated[str, typer.Option(metavar="JOB", help="Go on with a job that was interrupted or stopped.")] = "",
    reason: Reason = "",
    force: _Force = False,
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Plan, ask, then publish open letters to where they came from: each confirmed before it is marked as replayed.

    The workers write the outcome to each letter. Ctrl-C ends it after the letters in hand; after a crash or a lost
    connection --resume JOB goes on, and nothing is lost or stored twice. It stops by itself when too many letters of a
    step die again, or when live traffic lags. Exit code 6 when it stopped by itself, 3 when the broker was lost.
    """
    from worker.desk.options import Options, parse_allowed, parse_ramp

    if resume:
        asyncio.run(_resume(resume, acts_as, as_json=as_json))
        return
    needs_reason(reason)
    with desk_errors():
        steps = parse_ramp(ramp) if ramp else ()
        options = Options(limit, rate, steps, parse_allowed(max_failures), wait, keep_order, force)
    asyncio.run(_replay(names, words, reason, acts_as, options, yes=yes, as_json=as_json))


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
    """Ask a running replay to stop after the letters it has in hand."""
    asyncio.run(_cancel(job_id, acts_as))


async def _plan(
    names: Sequence[str],
    words: Mapping[str, Any],
    rules: Rules | None,
    limit: int | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        made = await _planned(desk, chosen, rules, limit, force=force)
    _print_plan(made, chosen, as_json=as_json)
    if not made.letters:
        raise typer.Exit(ExitCode.NOT_FOUND)


async def _planned(desk: Desk, chosen: Filter, rules: Rules | None, limit: int | None, *, force: bool) -> Plan:
    from worker.desk.plan import plan as make
    from worker.desk.query import count

    with progress() as bar:
        total = await count(desk, chosen)
        task = bar.add_task("planning", total=total if limit is None else min(total, limit))
        return await make(
            desk, chosen, rules, force=force, limit=limit, progress=lambda number: bar.advance(task, number)
        )


async def _replay(
    names: Sequence[str],
    words: Mapping[str, Any],
    reason: str,
    acts_as: str,
    options: Options,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from worker.desk.replay import replay as send

    settings = command_settings()
    async with open_desk(acts_as, settings) as desk:
        desk.check_may_change(reason)
        chosen = await chosen_by(desk, names, words)
        made = await _planned(desk, chosen, None, options.limit, force=options.force)
        if not as_json:
            _print_plan(made, chosen, as_json=False)
        if not made.letters:
            raise CommandError(ExitCode.NOT_FOUND, f"no letters: {chosen}")
        ask(f"Replay {counted(made.letters, 'letter')}?", yes=yes or (made.letters == 1 and made.good == 1))
        with _following(made.letters) as control:
            action, lost = await _sent(
                settings,
                control,
                lambda sending: send(
                    desk,
                    sending.publisher,
                    sending.journal,
                    chosen,
                    reason,
                    options,
                    plan_hash=made.hash,
                    control=control,
                ),
            )
    _print_end(action, lost, as_json=as_json)


async def _resume(job_id: str, acts_as: str, *, as_json: bool) -> None:
    from worker.desk.replay import resume as go_on

    settings = command_settings()
    async with open_desk(acts_as, settings) as desk:
        with _following(None) as control:
            action, lost = await _sent(
                settings,
                control,
                lambda sending: go_on(desk, sending.publisher, sending.journal, job_id, control=control),
            )
    _print_end(action, lost, as_json=as_json)


async def _sent(settings: Settings, control: Control, send: Any) -> tuple[Action, Failure | None]:
    """Send with the broker's connections open and live traffic watched; return also the failure that interrupted it."""
    from worker.desk.steps import Interrupted

    async with open_sending(settings, control) as sending:
        try:
            return await send(sending), None
        except Interrupted as interrupted:
            return interrupted.action, interrupted.failure


@contextmanager
def _following(total: int | None) -> Iterator[Control]:
    """Show progress, and turn the first Ctrl-C (or SIGTERM) into an orderly end; the second one ends at once."""
    from worker.desk.steps import Control

    loop = asyncio.get_running_loop()
    control = Control()

    def stop() -> None:
        control.stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with progress() as bar:
        task = bar.add_task("replaying", total=total)

        def show(counts: Counter[str]) -> None:
            bar.update(task, completed=counts["sent"])

        control.progress = show
        control.waiting = lambda left: bar.update(task, description=f"waiting for {counted(left, 'outcome')}")
        try:
            yield control
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _print_plan(made: Plan, chosen: Filter, *, as_json: bool) -> None:
    if as_json:
        print_json(_plan_document(made, chosen))
        return
    if not made.letters:
        print_line(f"no letters: {chosen}")
        return
    print_line(f"plan {made.hash} for {counted(made.letters, 'letter')}: {chosen}")
    for name, number in made.predictions.most_common():
        print_line(f"  {number:>7} {name.replace('_', ' ')}{_why(made, name)}")
    if made.after_newer:
        print_line(f"  {made.after_newer:>7} would arrive after newer activities of their conversation (--keep-order)")
    if made.changed:
        print_line(f"  {made.changed:>7} changed by the rules")


def _why(made: Plan, name: str) -> str:
    from worker.desk.plan import Prediction

    if name == Prediction.STORE:
        return ": " + ", ".join(f"{number} {reason}" for reason, number in made.stored_because.most_common())
    failures = [
        f"{number} {code} at {pointer or 'the whole message'}"
        for (prediction, code, pointer), number in made.failures.most_common(5)
        if prediction == name
    ]
    return ": " + ", ".join(failures) if failures else ""


def _plan_document(made: Plan, chosen: Filter) -> dict[str, Any]:
    failures = [
        {"prediction": prediction, "code": code, "pointer": pointer, "letters": number}
        for (prediction, code, pointer), number in made.failures.most_common()
    ]
    return {
        "plan": made.hash,
        "filter": str(chosen),
        "letters": made.letters,
        "predictions": dict(made.predictions),
        "storedBecause": dict(made.stored_because),
        "failures": failures,
        "afterNewer": made.after_newer,
        "changed": made.changed,
        "samples": made.samples,
    }


def _print_end(action: Action, lost: Failure | None, *, as_json: bool) -> None:
    document = action.document
    if as_json:
        print_json({"id": action.id, **{name: value for name, value in document.items() if name != "_id"}})
    else:
        counts = ", ".join(f"{number} {what}" for what, number in action.counts.items() if number) or "nothing was sent"
        print_line(f"job {action.id} {document['state']}: {counts}")
        outcomes = document.get("outcomes", {})
        if outcomes:
            names = {"replayed": "without outcome yet", "sending": "sent or not: unknown"}
            text = ", ".join(f"{number} {names.get(one, one)}" for one, number in sorted(outcomes.items()))
            print_line(f"  outcomes: {text}")
        if document.get("order"):
            print_line(f"  order: {document['order']}")
    if document["state"] != "done":
        text = f"{document.get('why', '')}; go on with: cim-worker dead-letters replay --resume {action.id}"
        raise CommandError(exit_code(document["state"], lost), text)


def exit_code(state: str, lost: Failure | None) -> ExitCode:
    """Return the exit code of a replay that ended in *state*; *lost*: what interrupted it, None for the publisher."""
    from worker.failure import Dependency

    if state == "interrupted":
        of_broker = lost is None or lost.dependency is Dependency.BROKER
        return ExitCode.BROKER_UNREACHABLE if of_broker else ExitCode.STORE_UNREACHABLE
    return ExitCode.REJECTED if state == "stopped" else ExitCode.OK


async def _jobs(limit: int, *, as_json: bool) -> None:
    from worker.desk.jobs import jobs as find

    async with open_desk() as desk:
        found = await find(desk, limit)
    if as_json:
        print_json([_job_document(one) for one in found])
    elif found:
        columns = ("job", "kind", "state", "who", "started", "why", "letters", "counts")
        print_table(None, columns, [_job_row(one) for one in found])
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
        for name, value in _job_document(found).items():
            if value not in (None, "", {}, []):
                print_line(f"{name:<12} {value}")
        shown = 0
        async for line in lines_of(desk, job_id):
            shown += 1
            if shown > _LINES_SHOWN:
                print_line("… (all lines: --json)")
                break
            print_line(f"  {line}")


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
