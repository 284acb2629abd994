"""`plan`: what a replay would do now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.dead_letters.opening import chosen_by, desk_errors, open_desk
from worker.cli.dead_letters.options import Force, Json, Limit, filtered
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_json, print_line, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.desk.desk import Desk
    from worker.desk.edit import Rules
    from worker.desk.filter import Filter
    from worker.desk.plan import Plan


_FAILURES_SHOWN: Final = 5
_Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="As if it were fixed so before.")]
_Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="As if it were fixed so before.")]
_Rename = Annotated[list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="As if it were fixed so.")]


@filtered
def plan(
    names: list[str],
    words: dict[str, Any],
    *,
    set_: _Set = None,
    unset: _Unset = None,
    rename: _Rename = None,
    limit: Limit = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Predict what a replay would do now: today's code runs on the letters, and nothing is touched.

    Counts what would be published, stored (and why), is stored already, would die for the same or another reason, and
    would arrive after newer stored activities of its conversation; of published ones `replay --keep-order` knows, which
    reads the journal. With --set, --unset and --rename as if fixed so before.
    """
    from worker.desk.edit import parse_rules

    rules = None
    if set_ or unset or rename:
        with desk_errors():
            rules = parse_rules(set_=set_ or (), unset=unset or (), rename=rename or (), force=True)
    asyncio.run(_plan(names, words, rules, limit, force=force, as_json=as_json))


async def _plan(
    names: Sequence[str],
    words: Mapping[str, Any],
    rules: Rules | None,
    limit: int | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from worker.desk.query import none_found

    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        made = await planned(desk, chosen, rules, limit, force=force)
        nothing = "" if made.letters else await none_found(desk, chosen)
    if nothing and not as_json:
        raise CommandError(ExitCode.NOT_FOUND, nothing)
    print_plan(made, chosen, as_json=as_json)
    if nothing:
        raise typer.Exit(ExitCode.NOT_FOUND)


async def planned(desk: Desk, chosen: Filter, rules: Rules | None, limit: int | None, *, force: bool) -> Plan:
    """Return the plan, made with a progress bar."""
    from worker.desk.plan import plan as make
    from worker.desk.query import count

    with progress() as bar:
        total = await count(desk, chosen)
        task = bar.add_task("planning", total=total if limit is None else min(total, limit))
        return await make(
            desk, chosen, rules, force=force, limit=limit, progress=lambda number: bar.advance(task, number)
        )


def print_plan(made: Plan, chosen: Filter, *, as_json: bool) -> None:
    """Print a plan for people, or as JSON."""
    if as_json:
        print_json(_plan_document(made, chosen))
        return
    print_line(f"plan {made.hash} for {counted(made.letters, 'letter')}: {chosen}")
    for name, number in made.predictions.most_common():
        print_line(f"  {number:>7} {name.replace('_', ' ')}{_why(made, name)}")
    if made.after_newer:
        print_line(
            f"  {made.after_newer:>7} would arrive after newer stored activities of their conversation (--keep-order)"
        )
    if made.changed:
        print_line(f"  {made.changed:>7} changed by the rules")


def _why(made: Plan, name: str) -> str:
    from worker.desk.plan import Prediction

    if name == Prediction.STORE:
        return ": " + ", ".join(f"{number} {reason}" for reason, number in made.stored_because.most_common())
    failures = [
        (number, f"{number} {code} at {pointer or 'the whole message'}")
        for (prediction, code, pointer), number in made.failures.most_common()
        if prediction == name
    ]
    shown, others = failures[:_FAILURES_SHOWN], failures[_FAILURES_SHOWN:]
    texts = [text for _, text in shown]
    if others:
        texts.append(f"{sum(number for number, _ in others)} of {counted(len(others), 'other cause')} (--json)")
    return ": " + ", ".join(texts) if texts else ""


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
