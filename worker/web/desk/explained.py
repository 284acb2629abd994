"""What became of a message: `explain` as a search box."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Final

from worker.desk.errors import usage
from worker.desk.explain import explain
from worker.desk.times import read_time
from worker.web.desk.render import Page

if TYPE_CHECKING:
    from worker.desk.explain import Explanation
    from worker.web.desk.asked import Asked

_LONGEST_SECONDS: Final = 15.0
"""Of reading the journal, so that the page answers; the command line has no such limit."""
_FRESH_SECONDS: Final = 3.0


async def show(asked: Asked) -> Page:
    """Return the search box, and what is known by the id that was asked for."""
    wanted, since = asked.text("id"), asked.text("since")
    found = None
    if wanted:
        found = await asked.office.fresh.get(
            f"explain {since} {wanted}", _FRESH_SECONDS, lambda: _explained(asked, wanted, since)
        )
    command = "" if found is None else _command(wanted, since)
    return Page("explain.html", wanted or "Explain", wanted=wanted, since=since, found=found, command=command)


async def _explained(asked: Asked, wanted: str, since: str) -> Explanation:
    now, until = asked.now, time.monotonic() + _LONGEST_SECONDS
    try:
        begin = read_time(since, now) if since else None
    except ValueError as error:
        raise usage(str(error)) from None

    def on_progress(_done: int, _total: int) -> bool:
        return time.monotonic() < until

    return await explain(wanted, asked.office.sources, now=now, since=begin, on_progress=on_progress)


def _command(wanted: str, since: str) -> str:
    return shlex.join(["cim-worker", "explain", wanted, *(["--since", since] if since else [])])
