"""Finding out what became of replays whose outcome the letter does not say: in dead letters, store and journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.cim import parse
from worker.dead_letters.letter import UNDER_WAY, Status, claim_state, status_after
from worker.desk.plan import replayed_properties
from worker.desk.ports import Change
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.ports import Query, ReplayOutcomes

_PAGE: Final = 500
_CLOCK_MS: Final = 60_000
"""Clocks of worker and desk may differ by so much."""


async def refresh(desk: Desk, journal: ReplayOutcomes | None, query: Query) -> int:
    """Write the outcome of the letters of *query* that are under way, where it can be found; return of how many."""
    found = 0
    async for page in desk.letters.stream(query, _PAGE):
        found += await _refresh(desk, journal, page)
    return found


async def _refresh(desk: Desk, journal: ReplayOutcomes | None, letters: Sequence[LetterRecord]) -> int:
    outcomes = await _successors(desk, letters)
    left = [letter for letter in letters if letter.id not in outcomes]
    if journal is not None and left:
        since = min(letter.status_at or 0 for letter in left) - _CLOCK_MS
        outcomes |= await journal.outcomes_of({letter.id: letter.job_id for letter in left}, since)
        left = [letter for letter in left if letter.id not in outcomes]
    outcomes |= await _stored(desk, left)
    alike: dict[tuple[str, str, str], list[str]] = {}
    for letter in letters:
        if letter.id in outcomes:
            alike.setdefault((letter.job_id, *outcomes[letter.id]), []).append(letter.id)
    for facts, ids in alike.items():
        await _write(desk, ids, *facts)
    return len(outcomes)


async def _successors(desk: Desk, letters: Sequence[LetterRecord]) -> dict[str, tuple[str, str]]:
    """Return those that died again, as another letter says."""
    jobs = {letter.id: letter.job_id for letter in letters}
    found: dict[str, tuple[str, str]] = {}
    # The bound says nothing new: it lets a server that uses no index for a list leave out what is no replay.
    replays_of = {"replayOf": {"$in": list(jobs), "$gt": ""}}
    async for page in desk.letters.stream(replays_of, _PAGE, bodies=False):
        for one in page:
            if one.replay_job == jobs[one.replay_of]:
                found[one.replay_of] = Outcome.DEAD.value, one.id
    return found


async def _stored(desk: Desk, letters: Sequence[LetterRecord]) -> dict[str, tuple[str, str]]:
    """Return those whose activity the store holds."""
    events = {letter.id: _event_id(desk, letter) for letter in letters}
    held = await desk.activities.held([event for event in events.values() if event])
    return {letter_id: (Outcome.STORED.value, "") for letter_id, event in events.items() if event in held}


def _event_id(desk: Desk, letter: LetterRecord) -> str:
    encoding = replayed_properties(letter).get("content_encoding")
    key = letter.idempotency_key or None
    now = desk.clock.now_ms()
    return parse(letter.body, received_at=now, content_encoding=encoding, idempotency_key=key).identity.event_id or ""


async def _write(desk: Desk, ids: Sequence[str], job_id: str, outcome: str, successor: str) -> None:
    now = desk.clock.now_ms()
    status = status_after(outcome) or Status.DIED_AGAIN
    values = {"status": status.value, "statusAt": now, "outcome": outcome, "successor": successor}
    for under_way in UNDER_WAY:
        change = Change(values, expires_at=now + desk.retention_ms)
        await desk.letters.change(ids, claim_state(under_way, job_id), change)
