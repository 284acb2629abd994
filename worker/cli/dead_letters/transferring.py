"""`export` and `import`: letters as JSON lines, for a colleague, a test, another installation."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.dead_letters.given import given
from worker.cli.dead_letters.opening import chosen_by, open_desk
from worker.cli.dead_letters.options import ActsAs, Json, Reason, Reveal, filtered, needs_reason
from worker.cli.dead_letters.printed import print_action
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import print_json_text, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@filtered
def export(names: list[str], words: dict[str, Any], *, reveal: Reveal = False, acts_as: ActsAs = "") -> None:
    """Write letters as JSON lines: payloads masked, for a ticket; with --reveal whole, for `import` and for tests."""
    asyncio.run(_export(names, words, acts_as, reveal=reveal))


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export --reveal` wrote, or - for standard input.")],
    reason: Reason = "",
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Add exported letters as open ones; those that are there already stay as they are."""
    needs_reason(reason)
    asyncio.run(_import(file, reason, acts_as, as_json=as_json))


async def _export(names: Sequence[str], words: Mapping[str, Any], acts_as: str, *, reveal: bool) -> None:
    from worker.desk.query import count, none_found
    from worker.desk.transfer import export as lines

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        with progress(beside_output=True) as bar:
            task = bar.add_task("exporting", total=await count(desk, chosen))
            exported = 0
            async for line in lines(desk, chosen, reveal=reveal):
                print_json_text(line)
                exported += 1
                bar.advance(task)
        sys.stdout.flush()
        if not exported:
            raise CommandError(ExitCode.NOT_FOUND, await none_found(desk, chosen))


async def _import(file: str, reason: str, acts_as: str, *, as_json: bool) -> None:
    from worker.desk.transfer import import_ as add

    lines = given(file).split(b"\n")
    async with open_desk(acts_as) as desk:
        with progress() as bar:
            task = bar.add_task("importing", total=sum(map(bool, lines)))
            action = await add(desk, lines, reason, lambda done: bar.advance(task, done))
    print_action(action, as_json=as_json)
