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
from worker.cli.output import has_reader, print_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter


_POLL_SECONDS: Final = 1.0
_SHOWN_AT_FIRST: Final = 200
_MOST_AT_ONCE: Final = 20_000
_OVERLAP_MS: Final = 60_000
"""A letter is recorded a while after it died, by the clock of another machine."""


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
        seen: dict[str, LetterRecord] = {}
        most = _SHOWN_AT_FIRST
        while has_reader():
            for letter in await _since(desk, chosen, since, most):
                before = seen.get(letter.id)
                if before is None or before.count != letter.count:
                    seen[letter.id] = letter
                    _print_watched(letter, as_json=as_json)
            since, most = max(since, now_ms() - _OVERLAP_MS), _MOST_AT_ONCE
            seen = {letter_id: letter for letter_id, letter in seen.items() if letter.last_seen >= since}
            await asyncio.sleep(_POLL_SECONDS)


async def _since(desk: Desk, chosen: Filter, since: int, most: int) -> list[LetterRecord]:
    """Return the letters *chosen* that were seen since then, at most the last so many, the oldest first."""
    from worker.desk.query import list_letters

    number = min(_SHOWN_AT_FIRST, most)
    while True:
        found = await list_letters(desk, replace(chosen, since=since), number)
        if len(found) < number or number == most:
            return found[::-1]
        number = min(10 * number, most)


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
