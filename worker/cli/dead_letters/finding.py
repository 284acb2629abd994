"""Commands that find letters: causes, and lists."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.dead_letters.opening import chosen_by, now_ms, open_desk
from worker.cli.dead_letters.options import Json, filtered
from worker.cli.dead_letters.printed import clock_time, letter_document
from worker.cli.errors import CommandError
from worker.cli.output import counted, print_json, print_line, print_table
from worker.cli.services import command_settings, open_broker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.query import Cause
    from worker.settings import Settings


_SENDERS_SHOWN: Final = 3
_JUST_NOW_MS: Final = 60_000
_SPARE_OF_CAUSES: Final = ("senders", "expected", "last", "first")
_SPARE_OF_LETTERS: Final = ("conversation", "sender", "message", "times", "replays", "where", "status")


@filtered
def groups(
    names: list[str],
    words: dict[str, Any],
    *,
    newest: Annotated[bool, typer.Option("--newest", help="The newest cause first, not the largest.")] = False,
    as_json: Json = False,
) -> None:
    """Show one line per cause of open letters: how many, why, who sent them, since when. The default command.

    The first column is the shortest beginning of the cause that is unambiguous now: name it in the next command, as in
    `show CAUSE`. Letters that wait in the queue or are parked there are counted, and none is taken out.
    """
    asyncio.run(_groups(names, words, newest=newest, as_json=as_json))


@filtered
def list_(
    names: list[str],
    words: dict[str, Any],
    *,
    limit: Annotated[int, typer.Option(help="Maximum number of letters to print.", min=1, max=100_000)] = 50,
    as_json: Json = False,
) -> None:
    """List letters, those that died last first."""
    asyncio.run(_list(names, words, limit, as_json=as_json))


async def _groups(names: Sequence[str], words: Mapping[str, Any], *, newest: bool, as_json: bool) -> None:
    from worker.desk.query import Order, none_found, statuses
    from worker.desk.query import groups as find

    settings = command_settings()
    async with open_desk(settings=settings) as desk:
        chosen = await chosen_by(desk, names, words)
        causes = await find(desk, chosen, Order.NEWEST if newest else Order.LARGEST)
        by_status = await statuses(desk)
        nothing = "" if causes else await none_found(desk, chosen)
    queues = await _queues(settings)
    if as_json:
        print_json({"filter": str(chosen), "causes": [_cause(one) for one in causes], "statuses": by_status, **queues})
        return
    if causes:
        columns = ("cause", "letters", "code", "where", "senders", "first", "last", "trend", "expected")
        print_table(None, columns, [_cause_row(one) for one in causes], spare=_SPARE_OF_CAUSES)
        print_line(
            f"{counted(sum(one.letters for one in causes), 'letter')} of {counted(len(causes), 'cause')}: {chosen}"
        )
        print_line("next: cim-worker dead-letters show CAUSE, then plan CAUSE")
    else:
        print_line(nothing)
    _print_elsewhere(by_status, queues)


def _print_elsewhere(by_status: Mapping[str, int], queues: Mapping[str, Any]) -> None:
    """Say where letters are that were not listed."""
    others = {status: number for status, number in sorted(by_status.items()) if status != "open" and number}
    if others:
        print_line("others: " + ", ".join(f"{number} {status}" for status, number in others.items()))
    if queues["queue"]:
        print_line(f"{counted(queues['queue'], 'letter')} in cim.dead-letters, not recorded yet: a worker does that")
    if queues["parked"]:
        print_line(
            f"{counted(queues['parked'], 'letter')} parked in cim.dead-letters.parked: no document can hold them"
        )
    if queues["problem"]:
        print_line(f"queues not looked at: {queues['problem']}")


async def _queues(settings: Settings) -> dict[str, Any]:
    """Return how many letters are in the queues; what cannot be asked is said and fails nothing."""
    from worker.contract import DEAD_LETTERS, PARKED
    from worker.rabbit.depths import PassiveDepths

    try:
        async with open_broker(settings) as connection:
            depths = await PassiveDepths(connection).depths((DEAD_LETTERS, PARKED))
    except CommandError as error:
        return {"queue": None, "parked": None, "problem": str(error)}
    ready = {name: depth.ready for name, depth in depths.items() if depth is not None}
    return {"queue": ready.get(DEAD_LETTERS), "parked": ready.get(PARKED), "problem": None}


async def _list(names: Sequence[str], words: Mapping[str, Any], limit: int, *, as_json: bool) -> None:
    from worker.desk.query import list_letters, none_found

    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        letters = await list_letters(desk, chosen, limit)
        nothing = "" if letters else await none_found(desk, chosen)
    if as_json:
        print_json([letter_document(one) for one in letters])
        return
    if not letters:
        print_line(nothing)
        return
    columns = ("id", "status", "code", "where", "sender", "message", "conversation", "last", "times", "replays")
    print_table(None, columns, [_row(one) for one in letters], spare=_SPARE_OF_LETTERS)
    more = f", at most {limit} shown (--limit)" if len(letters) == limit else ""
    print_line(f"{counted(len(letters), 'letter')}{more}: {chosen}")


def _cause(cause: Cause) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(cause)


def _cause_row(cause: Cause) -> Sequence[object]:
    senders = list(cause.senders[:_SENDERS_SHOWN]) or list(cause.users[:_SENDERS_SHOWN])
    if len(cause.senders) > _SENDERS_SHOWN:
        senders.append("…")
    trend = f"NEW, {cause.last_hour}/h" if cause.is_new else f"{cause.last_hour}/h, usually {cause.usual_hour:g}"
    return (
        cause.handle,
        cause.letters,
        cause.code,
        cause.pointer or "(whole message)",
        senders,
        _ago(cause.first_seen),
        _ago(cause.last_seen),
        trend,
        cause.detail,
    )


def _ago(at: int) -> str:
    from worker.desk.times import duration

    passed = now_ms() - at
    return "just now" if passed < _JUST_NOW_MS else f"{duration(passed)} ago"


def _row(letter: LetterRecord) -> Sequence[object]:
    return (
        letter.id,
        letter.status,
        letter.code,
        letter.pointer or "(whole message)",
        letter.sender_id,
        letter.message_id,
        letter.conversation_id,
        clock_time(letter.last_seen),
        letter.count,
        letter.replays,
    )
