"""Letters of one conversation in the order in which their activities happened, and which of them come too late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.dead_letters.letter import Status
from worker.desk.plan import Prediction, forecast_all
from worker.desk.query import PAGE, matching
from worker.desk.times import utc
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.ports import ReplayOutcomes

_UNSENDABLE = frozenset({Prediction.NO_WAY_BACK, Prediction.TOO_OFTEN})
HELD: Final = "held: its conversation has newer activities"


@dataclass(slots=True)
class Line:
    """Ids of letters that go one after the other."""

    ids: deque[str] = field(default_factory=deque)


class Ordered(NamedTuple):
    """Letters in their order."""

    lines: list[Line]
    """One for each conversation."""
    held: list[tuple[str, str]]
    """Those that are not sent, each with the reason."""
    unknown: str
    """What could not be known, in sentences; empty if nothing."""


class _Place(NamedTuple):
    """Where a letter stands in its conversation. Times are epoch milliseconds."""

    happened_at: int
    letter_id: str
    arrived_at: int


async def ordered(desk: Desk, journal: ReplayOutcomes | None, chosen: Filter, *, force: bool) -> Ordered:
    """Return the letters *chosen* in the order of each conversation.

    A letter is held when its conversation has a newer activity: one in the store, or one that arrived after the letter
    and was published, as far as the journal knows. A letter whose conversation is not known is a line of its own. Only
    ids and times are kept in memory.
    """
    found: dict[str, list[_Place]] = {}
    held: list[tuple[str, str]] = []
    alone = 0
    async for page in matching(desk, chosen):
        for forecast in await forecast_all(desk, page, force=force):
            letter = forecast.letter
            if forecast.prediction in _UNSENDABLE:
                held.append((letter.id, forecast.prediction))
            elif forecast.after_newer:
                held.append((letter.id, HELD))
            else:
                name = forecast.conversation_id or letter.conversation_id
                alone += not name
                place = _Place(forecast.timestamp, letter.id, _arrival(letter))
                found.setdefault(name or f"\0{letter.id}", []).append(place)
    newest, unknown = await _published(desk, journal, found)
    lines = []
    for name, places in found.items():
        late = {one.letter_id for one in places if newest.get(name, 0) > one.arrived_at}
        held += [(letter_id, HELD) for letter_id in sorted(late)]
        lines.append(Line(deque(one.letter_id for one in sorted(places) if one.letter_id not in late)))
    if alone:
        unknown.append(f"the conversation of {alone} of the letters is not known: they keep no order")
    return Ordered([line for line in lines if line.ids], held, "; ".join(unknown))


async def _published(
    desk: Desk, journal: ReplayOutcomes | None, found: dict[str, list[_Place]]
) -> tuple[dict[str, int], list[str]]:
    """Return when the newest published activity of each conversation arrived, and what is not known of that."""
    conversations = [name for name in found if not name.startswith("\0")]
    if not conversations:
        return {}, []
    since = min(place.arrived_at for name in conversations for place in found[name])
    newest = await _replayed(desk, conversations)
    known = None if journal is None else await journal.published(conversations, since)
    if known is None:
        return newest, ["which newer activities were published is not known: the journal cannot be read"]
    for name, at in known.newest.items():
        newest[name] = max(at, newest.get(name, 0))
    if known.since > since:
        return newest, [f"what was published before {utc(known.since)} is not known: the journal was read no further"]
    if not known.is_complete:
        return newest, ["the journal was not read to its end, or has gaps: newer activities may have been published"]
    return newest, []


async def _replayed(desk: Desk, conversations: Collection[str]) -> dict[str, int]:
    """Return when the newest letter of each conversation arrived whose replay was published."""
    newest: dict[str, int] = {}
    wanted = sorted(conversations)
    published = {"status": Status.SETTLED.value, "outcome": Outcome.PUBLISHED.value}
    for start in range(0, len(wanted), PAGE):
        query = {"conversationId": {"$in": wanted[start : start + PAGE]}, **published}
        async for page in desk.letters.stream(query, PAGE, bodies=False):
            for letter in page:
                newest[letter.conversation_id] = max(_arrival(letter), newest.get(letter.conversation_id, 0))
    return newest


def _arrival(letter: LetterRecord) -> int:
    """Return when a letter's message was tried first, in epoch milliseconds."""
    return letter.first_failed_at or letter.first_seen
