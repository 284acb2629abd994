"""`replay`: planned, asked for, followed, and resumed."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.dead_letters.opening import chosen_by, desk_errors, open_desk, open_sending
from worker.cli.dead_letters.options import ActsAs, Force, Json, Limit, Reason, Yes, ask, filtered, needs_reason
from worker.cli.dead_letters.planning import planned, print_plan
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_json, print_line, progress
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence

    from worker.desk.audit import Action
    from worker.desk.options import Options
    from worker.desk.steps import Control
    from worker.failure import Failure
    from worker.settings import Settings


@filtered
def replay(
    names: list[str],
    words: dict[str, Any],
    *,
    limit: Limit = None,
    rate: Annotated[float | None, typer.Option(help="At most so many letters a second.", min=0.01, max=1e6)] = None,
    ramp: Annotated[str, typer.Option(help="1,10,100: wait for the outcomes of each step, then send the rest.")] = "",
    max_failures: Annotated[
        str | None, typer.Option(help="More of a step that die again stop the ramp: a number, or a share. Usual: 5%.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(help="Longest to wait for outcomes, in seconds; 0: not at all. Usual: 60.", min=0, max=86_400),
    ] = None,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="A conversation's letters one after the other; hold outdated ones.")
    ] = False,
    resume: Annotated[str, typer.Option(metavar="JOB", help="Go on with a job that was interrupted or stopped.")] = "",
    reason: Reason = "",
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Plan, ask, then publish open letters to where they came from: each confirmed before it is marked as replayed.

    The workers write the outcome to each letter. Ctrl-C ends it after the letters in hand; after a crash or a lost
    connection --resume JOB goes on, and nothing is lost or stored twice; with another --rate, --ramp, --max-failures or
    --wait, if given. It stops by itself when too many letters of a step die again, or when live traffic lags. Exit code
    6 when it stopped by itself, 3 when the broker was lost.
    """
    from worker.desk.options import Options

    with desk_errors():
        given = _pace(rate, ramp, max_failures, wait)
    if resume:
        others = {**words, "limit": limit, "keep-order": keep_order, "force": force, "reason": reason}
        _refuse_with_resume(names, others)
        asyncio.run(_resume(resume, acts_as, given, as_json=as_json))
        return
    needs_reason(reason)
    options = Options(limit=limit, keep_order=keep_order, force=force, **given)
    asyncio.run(_replay(names, words, reason, acts_as, options, yes=yes, as_json=as_json))


def _pace(rate: float | None, ramp: str, max_failures: str | None, wait: float | None) -> dict[str, Any]:
    """Return the fields of `Options` that were given and say how fast letters are sent. Raises `DeskError`."""
    from worker.desk.options import parse_allowed, parse_ramp

    given = {
        "rate": rate,
        "ramp": parse_ramp(ramp) if ramp else None,
        "max_failures": None if max_failures is None else parse_allowed(max_failures),
        "wait_seconds": wait,
    }
    return {name: value for name, value in given.items() if value is not None}


def _refuse_with_resume(names: Sequence[str], others: Mapping[str, Any]) -> None:
    """Raise `CommandError` for what a job that is resumed would not follow: it has its letters, and its reason."""
    ignored = [*names, *(f"--{name}" for name, value in others.items() if value)]
    if ignored:
        text = f"--resume goes on with the letters, the order and the reason of its job: leave {' '.join(ignored)} out"
        raise CommandError(ExitCode.CONFIGURATION, text)


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
    from worker.desk.query import none_found
    from worker.desk.replay import replay as send

    settings = command_settings()
    async with open_desk(acts_as, settings) as desk:
        desk.check_may_change(reason)
        chosen = (await chosen_by(desk, names, words)).to_be("replayed")
        made = await planned(desk, chosen, None, options.limit, force=options.force)
        if not made.letters:
            raise CommandError(ExitCode.NOT_FOUND, await none_found(desk, chosen))
        if not as_json:
            print_plan(made, chosen, as_json=False)
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


async def _resume(job_id: str, acts_as: str, changes: Mapping[str, Any], *, as_json: bool) -> None:
    from worker.desk.replay import resume as go_on

    settings = command_settings()
    async with open_desk(acts_as, settings) as desk:
        with _following(None) as control:
            action, lost = await _sent(
                settings,
                control,
                lambda sending: go_on(
                    desk, sending.publisher, sending.journal, job_id, changes=changes, control=control
                ),
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
