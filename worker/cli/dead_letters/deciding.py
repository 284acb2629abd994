"""`discard` and `restore`: letters out of the way, and back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from worker.cli.dead_letters.opening import chosen_by, open_desk
from worker.cli.dead_letters.options import ActsAs, Json, Reason, Yes, ask, filtered, needs_reason
from worker.cli.dead_letters.printed import print_action
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_line, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@filtered
def discard(
    names: list[str],
    words: dict[str, Any],
    *,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Discard open letters: they are out of the way, and kept until CIM_LETTER_RETENTION ends."""
    needs_reason(reason)
    asyncio.run(_decide("discard", names, words, reason, acts_as, yes=yes, as_json=as_json))


@filtered
def restore(
    names: list[str],
    words: dict[str, Any],
    *,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Open discarded letters again; with --status also replayed, settled or died_again ones."""
    needs_reason(reason)
    asyncio.run(_decide("restore", names, words, reason, acts_as, yes=yes, as_json=as_json))


async def _decide(
    kind: str, names: Sequence[str], words: Mapping[str, Any], reason: str, acts_as: str, *, yes: bool, as_json: bool
) -> None:
    from worker.desk import decide
    from worker.desk.query import count, none_found

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        chosen = decide.restorable(chosen) if kind == "restore" else chosen.to_be("discarded")
        number = await count(desk, chosen)
        if not number:
            raise CommandError(ExitCode.NOT_FOUND, await none_found(desk, chosen))
        print_line(f"{counted(number, 'letter')}: {chosen}") if not as_json else None
        ask(f"{kind.capitalize()} {counted(number, 'letter')}?", yes=yes or number == 1)
        do = decide.discard if kind == "discard" else decide.restore
        with progress() as bar:
            task = bar.add_task(kind, total=number)
            action = await do(desk, chosen, reason, lambda done: bar.advance(task, done))
    print_action(action, as_json=as_json)
