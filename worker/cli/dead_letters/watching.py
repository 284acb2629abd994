"""`watch`: letters one a line, as they are recorded."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from worker.cli.dead_letters.opening import chosen_by, now_ms, open_desk
from worker.cli.dead_letters.options import Json, filtered
from worker.cli.dead_letters.printed import clock_time, letter_document
from worker.cli.output import print_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter


_POLL_SECONDS: Final = 1.0
_WATCHED_AT_ONCE: Final = 200


@filtered
def watch(names: list[str], words: dict[str, Any], *, as_json: Json = False) -> None:
    """Print letters as they are recorded, until Ctrl-C; with --json one object a line.

    With --since it begins with the letters that died since then, at most the last 200 of them.
    """
    try:
        asyncio.run(_watch(names, words, as_json=as_json))
    except KeyboardInterrupt:
        return


async def _watch(names: Sequence[str], words: Mapping[str, Any], *, as_json: bool) -> None:
    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        since = now_ms() if chosen.since is None else chosen.since
        if not as_json:
            print_line(f"watching: {chosen}; Ctrl-C ends")
        seen: dict[str, int] = {}
        while True:
            for letter in await _since(desk, chosen, since):
                if seen.get(letter.id) != letter.count:
                    seen[letter.id] = letter.count
                    _print_watched(letter, as_json=as_json)
            while len(seen) > 10 * _WATCHED_AT_ONCE:
                seen.pop(next(iter(seen)))
            since = max(since, now_ms() - 60_000)
            await asyncio.sleep(_POLL_SECONDS)


async def _since(desk: Desk, chosen: Filter, since: int) -> list[LetterRecord]:
    """Return the letters *chosen* that were seen since then, the oldest first."""
    from worker.desk.query import list_letters

    return (await list_letters(desk, replace(chosen, since=since), _WATCHED_AT_ONCE))[::-1]


def _print_watched(letter: LetterRecord, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(letter_document(letter)) + "\n")
        sys.stdout.flush()
        return
    where = f" at {letter.pointer}" if letter.pointer else ""
    print_line(
        f"{clock_time(letter.last_seen)}  {letter.id}  {letter.code}{where}  sender {letter.sender_id or '?'}"
        f"  message {letter.message_id or '?'}"
    )
