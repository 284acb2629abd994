"""Finding letters: causes, lists, one letter's story. Nothing is changed, and nothing is taken from a queue."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from worker.dead_letters.letter import Status
from worker.desk.errors import not_found, usage
from worker.desk.ports import GroupCount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter

NEW_MS: Final = 24 * 3_600_000
"""A cause seen for the first time within a day is new."""
_HOUR_MS: Final = 3_600_000
_SHORTEST_HANDLE: Final = 4
_LETTER_DIGITS: Final = 24
_CAUSE_DIGITS: Final = 12
_HEX: Final = re.compile("[0-9a-f]+")
_LINEAGE: Final = 50
_NAMES_KEPT: Final = 20
PAGE: Final = 500
"""Letters handled at once by whatever works on many."""


class Order(StrEnum):
    """How causes are sorted."""

    LARGEST = "largest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Cause:
    """All letters of one fingerprint that a filter names. Times are epoch milliseconds."""

    handle: str
    """The shortest beginning of its fingerprint that no other cause has: names it in the next command."""
    fingerprint: str
    letters: int
    deaths: int
    code: str
    failure_class: str
    stage: str
    pointer: str
    detail: str
    first_seen: int
    last_seen: int
    senders: tuple[str, ...]
    users: tuple[str, ...]
    last_hour: int
    """Letters seen in the last hour."""
    usual_hour: float
    """Letters in an hour, on average since the first one."""
    is_new: bool
    """Whether it was never seen before the last day."""
    sample: str
    """Id of one of its letters."""


async def groups(desk: Desk, chosen: Filter, order: Order = Order.LARGEST) -> list[Cause]:
    """Return the causes of the letters *chosen*, the largest or newest first.

    With conditions about the payload every letter is looked at; without, the store counts.
    """
    counted = await (_counted(desk, chosen) if chosen.where else desk.letters.groups(chosen.query()))
    counted = [one for one in counted if one.fingerprint]
    of_all = await desk.letters.counts({}, "fingerprint")
    handles = shortest_handles({*of_all, *(one.fingerprint for one in counted)})
    now = desk.clock.now_ms()
    known = await _known_since(desk, counted, of_all, now)
    recent = await _recent(desk, chosen, counted, now)
    samples = await _samples(desk, chosen, counted)
    causes = [
        _cause(
            one,
            samples.get(one.fingerprint),
            handles[one.fingerprint],
            recent.get(one.fingerprint, 0),
            now,
            known[one.fingerprint],
        )
        for one in counted
    ]
    key = (lambda one: (-one.letters, -one.last_seen)) if order is Order.LARGEST else (lambda one: (-one.last_seen, 0))
    return sorted(causes, key=key)


async def list_letters(desk: Desk, chosen: Filter, limit: int) -> list[LetterRecord]:
    """Return at most *limit* letters, those seen last first; without their bodies."""
    if not chosen.where:
        return await desk.letters.latest(chosen.query(), limit)
    found: list[LetterRecord] = []
    async for page in matching(desk, chosen):
        found += [replace(letter, body=b"") for letter in page]
        if len(found) > 2 * limit:
            found = _newest(found, limit)
    return _newest(found, limit)


async def matching(
    desk: Desk, chosen: Filter, *, bodies: bool = True, page: int = PAGE, limit: int | None = None
) -> AsyncIterator[list[LetterRecord]]:
    """Yield all letters *chosen* in pages, without their headers; a few more than *limit* may come."""
    most = None if chosen.where else limit
    async for letters in desk.letters.stream(chosen.query(), page, bodies=bodies or bool(chosen.where), limit=most):
        found = [letter for letter in letters if chosen.matches(letter.body)] if chosen.where else letters
        if found:
            yield found


async def count(desk: Desk, chosen: Filter) -> int:
    """Return how many letters are *chosen*."""
    if not chosen.where:
        return sum((await desk.letters.counts(chosen.query(), "status")).values())
    return sum([len(page) async for page in matching(desk, chosen)])


async def statuses(desk: Desk) -> dict[str, int]:
    """Return how many letters there are of each status."""
    return await desk.letters.counts({}, "status")


async def none_found(desk: Desk, chosen: Filter) -> str:
    """Return one sentence for when *chosen* names no letter, which says so where those it means are not open."""
    others: Mapping[str, int] = {}
    if chosen.is_open and not chosen.where:
        others = await desk.letters.counts(replace(chosen, status=()).query(), "status")
    told = ", ".join(f"{number} {status}" for status, number in sorted(others.items()) if status != Status.OPEN)
    return f"{chosen.none_found}; of another status: {told} (--status any)" if told else chosen.none_found


async def get(desk: Desk, letter_id: str) -> LetterRecord:
    """Return one letter, whole. Raises `DeskError` when there is none of that id."""
    found = await desk.letters.some({"_id": letter_id}, 1)
    if not found:
        raise not_found(f"there is no letter {letter_id}; see `cim-worker dead-letters list --status any`")
    return found[0]


async def resolve(desk: Desk, names: Sequence[str], chosen: Filter) -> Filter:
    """Return *chosen* narrowed to *names*: ids of letters, or causes by their beginning. Raises `DeskError`."""
    groups_given = [value for name, values in chosen.equal if name == "group" for value in values]
    if not names and not groups_given:
        return chosen
    letters = tuple(name for name in names if len(name) == _LETTER_DIGITS)
    causes = [await _one_cause(desk, name) for name in (*names, *groups_given) if name not in letters]
    if letters and causes:
        raise usage("name letters or causes, not both")
    rest = tuple((name, values) for name, values in chosen.equal if name != "group")
    equal = (*rest, ("group", tuple(causes))) if causes else rest
    return replace(chosen, equal=equal, letters=(*chosen.letters, *letters))


async def one(desk: Desk, name: str) -> LetterRecord:
    """Return the letter of an id, or the newest letter of a cause (open ones before others). Raises `DeskError`."""
    if len(name) == _LETTER_DIGITS and _HEX.fullmatch(name):
        return await get(desk, name)
    fingerprint = name if len(name) == _CAUSE_DIGITS and _HEX.fullmatch(name) else await _one_cause(desk, name)
    for query in ({"fingerprint": fingerprint, "status": Status.OPEN.value}, {"fingerprint": fingerprint}):
        newest = await desk.letters.latest(query, 1)
        if newest:
            return await get(desk, newest[0].id)
    raise not_found(f"there is no letter of cause {name}; see `cim-worker dead-letters groups`")


async def lineage(desk: Desk, letter: LetterRecord) -> list[LetterRecord]:
    """Return the letters that *letter* comes from and those it became, itself among them, the first one first.

    But for *letter* itself they are without what is large: body and headers.
    """
    chain = [letter]
    while chain[0].replay_of and len(chain) < _LINEAGE and (found := await _letter(desk, chain[0].replay_of)):
        chain.insert(0, found)
    while len(chain) < _LINEAGE and (found := await _successor(desk, chain[-1])):
        chain.append(found)
    return chain


def shortest_handles(fingerprints: Iterable[str]) -> dict[str, str]:
    """Return for each fingerprint its shortest beginning, of four digits or more, that no other one has."""
    ordered = sorted({one for one in fingerprints if one})
    common = [_common(left, right) for left, right in pairwise(ordered)]
    needed = [max(pair) + 1 for pair in zip([0, *common], [*common, 0], strict=True)] if ordered else []
    return {one: one[: max(_SHORTEST_HANDLE, digits)] for one, digits in zip(ordered, needed, strict=True)}


def _common(left: str, right: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


async def _one_cause(desk: Desk, name: str) -> str:
    """Return the fingerprint, of letters of any status, that is *name* or begins with it. Raises `DeskError`."""
    text = name.lower()
    # A range, for the server to look at the letters of these causes alone.
    counted = await desk.letters.counts({"fingerprint": {"$gte": text, "$lt": f"{text}\uffff"}}, "fingerprint")
    found = sorted(one for one in counted if one)
    if text in found:
        return text
    if not _HEX.fullmatch(text) or not found:
        raise not_found(f"{name!r} is no letter and no cause; see `cim-worker dead-letters groups` and `list`")
    if len(found) > 1:
        shown = ", ".join(found[:5])
        raise usage(f"{name!r} is the beginning of {len(found)} causes: {shown}; write more digits of the one you mean")
    return found[0]


async def _letter(desk: Desk, letter_id: str) -> LetterRecord | None:
    found = await desk.letters.latest({"_id": letter_id}, 1)
    return found[0] if found else None


async def _successor(desk: Desk, letter: LetterRecord) -> LetterRecord | None:
    if letter.successor and (named := await _letter(desk, letter.successor)):
        return named
    found = await desk.letters.latest({"replayOf": letter.id}, 1) if letter.replays else []
    return found[0] if found else None


async def _known_since(
    desk: Desk, counted: Sequence[GroupCount], of_all: Mapping[str, int], now: int
) -> Mapping[str, int]:
    """Return when each cause was seen first, of other letters than those counted and of letters that are gone, too."""
    known = {one.fingerprint: one.first_seen for one in counted}
    looks_new = [one for one in counted if one.first_seen > now - NEW_MS]
    if looks_new:
        for cause, at in (await desk.letters.known_since([one.fingerprint for one in looks_new])).items():
            known[cause] = min(at, known[cause])
    # Others that are kept may be older, unless all of a cause were counted: from before causes were written down.
    if any(known[one.fingerprint] > now - NEW_MS and one.letters < of_all.get(one.fingerprint, 0) for one in looks_new):
        kept = await desk.letters.first_seen()
        return {cause: min(at, kept.get(cause, at)) for cause, at in known.items()}
    return known


async def _recent(desk: Desk, chosen: Filter, counted: Sequence[GroupCount], now: int) -> Mapping[str, int]:
    """Return how many letters of each cause were seen in the last hour; with conditions about the payload, of none."""
    begin = now - _HOUR_MS
    if chosen.where or not any(one.first_seen < begin < one.last_seen for one in counted):
        return {} if chosen.where else {one.fingerprint: one.letters for one in counted if one.last_seen > begin}
    return await desk.letters.counts(replace(chosen, since=max(begin, chosen.since or 0)).query(), "fingerprint")


async def _counted(desk: Desk, chosen: Filter) -> list[GroupCount]:
    counted: dict[str, GroupCount] = {}
    async for page in matching(desk, chosen):
        for letter in page:
            counted[letter.fingerprint] = _with(counted.get(letter.fingerprint), letter)
    return [*counted.values()]


def _with(known: GroupCount | None, letter: LetterRecord) -> GroupCount:
    """Return a count with one letter more."""
    if known is None:
        known = GroupCount(letter.fingerprint, 0, 0, letter.first_seen, letter.last_seen)
    return GroupCount(
        letter.fingerprint,
        known.letters + 1,
        known.deaths + letter.count,
        min(known.first_seen, letter.first_seen),
        max(known.last_seen, letter.last_seen),
        _more(known.senders, letter.sender_id),
        _more(known.users, letter.user_id),
    )


def _more(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if not name or name in names or len(names) >= _NAMES_KEPT else tuple(sorted((*names, name)))


def _cause(
    counted: GroupCount, sample: LetterRecord | None, handle: str, last_hour: int, now: int, known_since: int
) -> Cause:
    hours = max(1.0, (now - counted.first_seen) / _HOUR_MS)
    return Cause(
        handle=handle,
        fingerprint=counted.fingerprint,
        letters=counted.letters,
        deaths=counted.deaths,
        code=sample.code if sample is not None else "",
        failure_class=sample.failure_class if sample is not None else "",
        stage=sample.stage if sample is not None else "",
        pointer=sample.pointer if sample is not None else "",
        detail=sample.detail if sample is not None else "",
        first_seen=counted.first_seen,
        last_seen=counted.last_seen,
        senders=counted.senders,
        users=counted.users,
        last_hour=last_hour,
        usual_hour=round(counted.letters / hours, 1),
        is_new=known_since > now - NEW_MS,
        sample=sample.id if sample is not None else "",
    )


async def _samples(desk: Desk, chosen: Filter, counted: Sequence[GroupCount]) -> dict[str, LetterRecord]:
    """Return the newest letter of each cause; asked for in one go, and alone where many have the same time."""
    causes, times = [one.fingerprint for one in counted], [one.last_seen for one in counted]
    # The bound says nothing new: it is what a server that uses no index for a list finds by one.
    seen = {"$in": times, "$gte": min(times, default=0)}
    query = {**replace(chosen, since=None, until=None).query(), "lastSeen": seen}
    newest_first = await desk.letters.latest(query, PAGE) if counted else []
    found = {one.fingerprint: one for one in reversed(newest_first)}
    for cause in causes:
        if cause not in found and (alone := await desk.letters.latest({"fingerprint": cause}, 1)):
            found[cause] = alone[0]
    return found


def _newest(letters: Sequence[LetterRecord], limit: int) -> list[LetterRecord]:
    return sorted(letters, key=lambda letter: -letter.last_seen)[:limit]
