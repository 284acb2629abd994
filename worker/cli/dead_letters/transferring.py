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
from worker.cli.output import print_json_text

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
    from worker.desk.transfer import export as lines

    async with open_desk(acts_as) as desk:
        async for line in lines(desk, await chosen_by(desk, names, words), reveal=reveal):
            print_json_text(line)
        sys.stdout.flush()


async def _import(file: str, reason: str, acts_as: str, *, as_json: bool) -> None:
    from worker.desk.transfer import import_ as add

    lines = given(file).decode("utf-8", "replace").splitlines()
    async with open_desk(acts_as) as desk:
        action = await add(desk, lines, reason)
    print_action(action, as_json=as_json)
