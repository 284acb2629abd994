"""The store and the broker as the desk needs them. Every method raises `AdapterError` when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord, RecordResult
    from worker.failure import Failure
    from worker.pipeline.translate import Activity

Document = dict[str, Any]
Query = dict[str, Any]
"""Fields of letters with what they must be: a string or an integer, or `$in`, `$gte`, `$lt` with those."""


@dataclass(frozen=True, slots=True)
class GroupCount:
    """The letters of one cause. Times are epoch milliseconds."""

    fingerprint: str
    letters: int
    deaths: int
    """How often they died: the same content again and again is one letter."""
    first_seen: int
    last_seen: int
    senders: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What is written to letters."""

    values: Mapping[str, Any]
    """New values by the names of the document's fields."""
    add: Mapping[str, int] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    expires_at: int | None = None
    """Epoch ms after which the server deletes them; None: no such time is set. Remove `expiresAt` to take it back."""


class Letters(Protocol):
    """The collection `dead_letters`."""

    async def groups(self, query: Query) -> list[GroupCount]:
        """Count letters by cause."""

    async def counts(self, query: Query, field: str) -> dict[str, int]:
        """Count letters by the value of one field."""

    async def first_seen(self) -> dict[str, int]:
        """Return when (epoch ms) each cause was seen first, by its fingerprint; of letters of any status."""

    async def known_since(self, causes: Collection[str]) -> dict[str, int]:
        """Return when (epoch ms) each of *causes* was seen first, deleted letters included, where that is known."""

    async def latest(self, query: Query, limit: int, *, oldest_first: bool = False) -> list[LetterRecord]:
        """Return letters by the time they were seen last, without what is large: body and headers."""

    async def some(self, query: Query, limit: int) -> list[LetterRecord]:
        """Return some letters, whole."""

    def stream(
        self, query: Query, page: int, *, bodies: bool = True, limit: int | None = None
    ) -> AsyncIterator[list[LetterRecord]]:
        """Yield letters, at most *limit*, in pages, without their headers; without *bodies* these are empty."""

    async def change(self, ids: Collection[str], guard: Query, change: Change) -> int:
        """Change those of *ids* that *guard* holds for; return how many.

        Quickest everywhere is a guard of status and job: `LetterRecord.claim_state`.
        """

    async def delete(self, ids: Collection[str]) -> int:
        """Delete letters; return how many."""

    async def insert(self, letters: Sequence[LetterRecord]) -> list[RecordResult]:
        """Add letters as they are; one that is there already stays as it is."""


class Actions(Protocol):
    """The collection `operator_actions`: who did what to which letters, when, why."""

    async def put(self, action: Document) -> None:
        """Write one action, in place of the one of its `_id`."""

    async def update(self, action_id: str, values: Mapping[str, Any], guard: Query | None = None) -> bool:
        """Set fields of one action if *guard* holds for it; tell whether it does."""

    async def get(self, action_id: str) -> Document | None:
        """Return one action."""

    async def latest(self, limit: int, *, kinds: Collection[str] = ()) -> list[Document]:
        """Return the newest actions, of these *kinds* or all, without their lines."""

    def lines(self, action_id: str) -> AsyncIterator[list[Document]]:
        """Yield the chunks of an action's lines, in their order."""


class Activities(Protocol):
    """The Conversations store, to look into."""

    async def held(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of *event_ids* that are stored."""

    async def newest(self, conversation_ids: Collection[str]) -> Mapping[str, int]:
        """Return the time (epoch ms) of the newest activity of each conversation that has one."""

    async def refusals(self, activities: Sequence[Activity]) -> list[Failure | None]:
        """Return why no document can hold an activity, None where one can."""

    async def delete_of_customer(self, customer_id: str) -> int:
        """Delete the activities of a customer; return how many."""

    async def count_of_customer(self, customer_id: str) -> int:
        """Return how many activities a customer has."""


class Published(NamedTuple):
    """What the journal knows of published activities. Times are epoch milliseconds."""

    newest: Mapping[str, int]
    """When the newest one of each conversation arrived, replays left out."""
    since: int
    """From when on it is known."""
    is_complete: bool
    """Whether it was read to its end, and says of no gap."""


class ReplayOutcomes(Protocol):
    """The journal, asked what became of replays, and what else was published."""

    async def published(self, conversation_ids: Collection[str], since: int) -> Published | None:
        """Return what was published to conversations since *since* (epoch ms); None if the journal cannot be read."""

    async def outcomes_of(self, jobs: Mapping[str, str], since: int) -> Mapping[str, tuple[str, str]]:
        """Return the final outcome and the letter it became (or "") of those replays that the journal knows.

        *jobs*: by letter, the job that replayed it.
        """
