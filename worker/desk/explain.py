"""What became of a message: everything that journal, store, registry and dead letters know, as one story each.

An id can mean several things: a message id, an event id, a dead letter's id, or an AMQP message id.
What one place knows by it leads to further ids, which the others are asked for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from worker.dead_letters.envelope import shortened
from worker.desk.journal import Coverage, Entry, read_journal
from worker.desk.story import StoredActivity, Story, place, tell
from worker.desk.wording import why_not
from worker.failure import AdapterError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from worker.conversations.ports import ConversationLookup
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.journal import JournalStream

MOST: Final = 100
"""Activities and letters that are looked at for one id; integrations in the field give one id to all they send."""
_MOST_OUTCOMES: Final = 5_000
_ROUNDS: Final = 3
_DAY_MS: Final = 24 * 60 * 60 * 1000
_MINUTE_MS: Final = 60_000


class ActivityLookup(Protocol):
    """The Conversations store. Raises `AdapterError`."""

    async def activities(self, ids: Collection[str], limit: int) -> Sequence[StoredActivity]:
        """Return at most *limit* activities whose event id or message id is one of *ids*."""


class LetterLookup(Protocol):
    """The dead letters. Raises `AdapterError`."""

    async def letters(self, ids: Collection[str], limit: int) -> Sequence[LetterRecord]:
        """Return at most *limit* letters: those with these ids, of messages with these ids, and replays of these."""

    async def letters_by_amqp_id(self, amqp_id: str, limit: int) -> Sequence[LetterRecord]:
        """Return at most *limit* letters whose AMQP message id is this."""


class Searched(NamedTuple):
    """One place that was searched."""

    where: str
    found: int
    problem: str | None = None
    """Why it could not be searched, or not to its end."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known by one id."""

    id: str
    meanings: tuple[str, ...]
    """What the id is: `message id`, `event id`, `dead letter`, `AMQP message id` (or that `of a dead letter`)."""
    stories: tuple[Story, ...]
    """One for each activity, in the order of their time."""
    searched: tuple[Searched, ...]
    journal: Coverage | None
    """What was read of the journal; None when it could not be read."""
    is_cut: bool
    """Whether there is more than can be shown."""

    @property
    def is_complete(self) -> bool:
        """Whether every place could be searched."""
        return all(one.problem is None for one in self.searched)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; times are epoch milliseconds."""
        return {
            "id": self.id,
            "is": list(self.meanings),
            "activities": [story.as_json() for story in self.stories],
            "searched": [one._asdict() for one in self.searched],
            "journal": None if self.journal is None else self.journal.as_json(),
            "complete": self.is_complete,
            "cut": self.is_cut,
        }


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. What cannot be opened raises `AdapterError` when it is used, and is said."""

    activities: ActivityLookup
    letters: LetterLookup
    registry: ConversationLookup
    journal: Callable[[], AbstractAsyncContextManager[JournalStream]]


class Found:
    """What is known so far, and the ids that it leads to."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.names = {wanted, shortened(wanted)}
        """What is asked for: letters and journal have no more of a long id than a header holds."""
        self.ids = set(self.names)
        self.activities: dict[str, StoredActivity] = {}
        self.letters: dict[str, LetterRecord] = {}
        self.entries: list[Entry] = []
        self.is_cut = False

    @property
    def earliest(self) -> int | None:
        """The oldest time anybody but the journal knows."""
        times = [one.created_at for one in self.activities.values() if one.created_at]
        times += [one.first_failed_at or one.first_seen for one in self.letters.values()]
        return min(times, default=None)

    def take_activities(self, some: Sequence[StoredActivity]) -> None:
        """Keep *some*; their message ids lead further."""
        self.activities |= {one.event_id: one for one in some}
        self.ids |= {one.message_id for one in some if one.message_id}
        self.is_cut |= len(some) >= MOST

    def take_letters(self, some: Sequence[LetterRecord]) -> None:
        """Keep *some*; their message ids lead further."""
        self.letters |= {one.id: one for one in some}
        self.ids |= {one.message_id for one in some if one.message_id} | {one.id for one in some}
        self.is_cut |= len(some) >= MOST

    def take_entry(self, entry: Entry) -> None:
        """Keep an outcome if it is about one of the ids; its message id leads further."""
        if self.ids.isdisjoint(entry.ids):
            return
        if len(self.entries) >= _MOST_OUTCOMES:
            self.is_cut = True
            return
        self.entries.append(entry)
        if entry.message_id is not None:
            self.ids.add(entry.message_id)


async def explain(
    wanted: str,
    sources: Sources,
    *,
    now: int,
    since: int | None = None,
    on_progress: Callable[[int, int], bool | None] = lambda _done, _total: None,
) -> Explanation:
    """Return everything that is known by the id *wanted*. Raises nothing for a place that cannot be asked.

    Args:
        wanted: a message id, event id, letter id, or AMQP message id.
        sources: where to look.
        now: epoch milliseconds.
        since: from when on the journal is searched (epoch ms); None: a day, or as far as what else was found is old.
        on_progress: called with how much of the journal was read; if it returns False, reading ends there.
    """
    found, search = Found(wanted), _Search(sources, on_progress)
    await search.store(found)
    if since is None:
        since = min(now - _DAY_MS, (found.earliest or now) - _MINUTE_MS)
    for _ in range(_ROUNDS):
        before = len(found.ids)
        found.entries.clear()
        await search.journal(found, since)
        await search.store(found)
        if len(found.ids) == before or search.coverage is None:
            break
    stories = tell(found.entries, found.activities.values(), found.letters.values())
    await search.conversations(stories)
    return Explanation(
        wanted,
        _meanings(found),
        tuple(stories),
        tuple(search.searched.values()),
        search.coverage,
        found.is_cut,
    )


class _Search:
    """Asks one place after the other, and remembers what came of it."""

    def __init__(self, sources: Sources, on_progress: Callable[[int, int], bool | None]) -> None:
        self._sources = sources
        self._on_progress = on_progress
        self._asked: dict[str, set[str]] = defaultdict(set)
        self._store_is_away: str | None = None
        self.searched: dict[str, Searched] = {}
        self.coverage: Coverage | None = None

    async def store(self, found: Found) -> None:
        """Ask the store for what it was not asked for yet: letters first, they lead to message ids."""

        async def letters(ids: Collection[str]) -> int:
            if found.wanted in ids:
                found.take_letters(await self._sources.letters.letters_by_amqp_id(found.wanted, MOST))
            found.take_letters(await self._sources.letters.letters(ids, MOST))
            return len(found.letters)

        async def activities(ids: Collection[str]) -> int:
            found.take_activities(await self._sources.activities.activities(ids, MOST))
            return len(found.activities)

        await self._ask("dead letters", found, letters)
        await self._ask("store", found, activities)

    async def journal(self, found: Found, since: int) -> None:
        """Read the journal from *since* (epoch ms) on."""
        try:
            async with self._sources.journal() as stream:
                self.coverage = await read_journal(
                    stream, since=since, take=found.take_entry, ids=found.ids, on_progress=self._on_progress
                )
        except AdapterError as error:
            self.searched["journal"] = Searched("journal", len(found.entries), why_not(error))
        else:
            problem = None if self.coverage.is_complete else "not read to its end"
            self.searched["journal"] = Searched("journal", len(found.entries), problem)

    async def conversations(self, stories: Sequence[Story]) -> None:
        """Fill what the registry knows of each story's conversation, and which anchors contradict it."""
        conversations = [story.conversation_id for story in stories if story.conversation_id]
        sessions = [story.anchors.channel_session_id for story in stories if story.anchors]
        if not conversations and not any(sessions):
            return

        async def lookup() -> int:
            known = await self._sources.registry.lookup(conversations, [one for one in sessions if one])
            for story in stories:
                place(story, known)
            return len(known.by_conversation)

        await self._search("registry", lookup)

    async def _ask(self, where: str, found: Found, ask: Callable[[Collection[str]], Awaitable[int]]) -> None:
        ids = found.ids - self._asked[where]
        self._asked[where] |= ids
        if ids:
            await self._search(where, lambda: ask(ids))

    async def _search(self, where: str, ask: Callable[[], Awaitable[int]]) -> None:
        """Ask one place in the store; not once more when the store did not answer before."""
        if self._store_is_away is None:
            try:
                self.searched[where] = Searched(where, await ask())
            except StoreUnavailable as error:
                self._store_is_away = why_not(error)
            except AdapterError as error:
                self.searched[where] = Searched(where, 0, why_not(error))
        if self._store_is_away is not None:
            self.searched[where] = Searched(where, 0, self._store_is_away)


def _meanings(found: Found) -> tuple[str, ...]:
    of_messages = {entry.message_id for entry in found.entries}
    of_messages |= {one.message_id for one in found.activities.values()}
    of_messages |= {one.message_id for one in found.letters.values()}
    wanted = found.wanted
    is_message = not found.names.isdisjoint(of_messages)
    is_event = wanted in found.activities or any(entry.event_id == wanted for entry in found.entries)
    is_letter = wanted in found.letters or any(wanted in {one.letter_id, one.replay_of} for one in found.entries)
    is_letters_amqp = any(dict(letter.properties).get("message_id") == wanted for letter in found.letters.values())
    is_amqp = any(entry.amqp_message_id == wanted for entry in found.entries)
    known = {
        "message id": is_message,
        "event id": is_event,
        "dead letter": is_letter,
        "AMQP message id": is_amqp and not is_letters_amqp,
        "AMQP message id of a dead letter": is_letters_amqp and not is_message,
    }
    return tuple(name for name, does in known.items() if does)
