"""`purge`: letters deleted for good, and what is known of a customer erased."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.dead_letters.opening import chosen_by, open_desk
from worker.cli.dead_letters.options import ActsAs, Json, Reason, Yes, filtered, needs_reason
from worker.cli.dead_letters.printed import print_action
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_line, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@filtered
def purge(
    names: list[str],
    words: dict[str, Any],
    *,
    activities: Annotated[
        bool, typer.Option("--activities", help="With --customer: its activities in the store, too.")
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Delete letters for good. To erase a customer: purge --customer ID --activities.

    Asks for "purge N" to be typed. With a customer and no --status, letters of every status are meant.
    """
    needs_reason(reason)
    asyncio.run(_purge(names, words, reason, acts_as, activities=activities, yes=yes, as_json=as_json))


async def _purge(
    names: Sequence[str],
    words: Mapping[str, Any],
    reason: str,
    acts_as: str,
    *,
    activities: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from worker.desk import decide
    from worker.desk.query import none_found

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        if words["customer"] and not words["status"]:
            chosen = decide.everything(chosen)
        found = await decide.purge_preview(desk, chosen, activities=activities)
        what = counted(found.letters, "letter")
        if activities:
            what += f" and {counted(found.activities, 'activity').replace('activitys', 'activities')}"
        if not found.letters and not found.activities:
            raise CommandError(ExitCode.NOT_FOUND, await none_found(desk, chosen))
        if not as_json:
            print_line(f"{what} would be deleted for good: {chosen}")
        _ask_typed(f"purge {found.letters + found.activities}", yes=yes)
        with progress() as bar:
            task = bar.add_task("purging", total=found.letters)
            action = await decide.purge(
                desk, chosen, reason, activities=activities, progress=lambda done: bar.advance(task, done)
            )
    print_action(action, as_json=as_json)
    if activities:
        typer.echo(decide.JOURNAL_NOTE, err=as_json)  # in JSON there is only the action


def _ask_typed(words: str, *, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(ExitCode.CONFIGURATION, "nothing was deleted: give --yes to do it")
    if typer.prompt(f"This cannot be undone. Type {words!r}", err=True, default="", show_default=False) != words:
        raise CommandError(ExitCode.OK, "nothing was deleted")
