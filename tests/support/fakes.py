"""Ten-line stand-ins for broker, store and registry; `tests/contract` holds them to what the real ones do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.conversations.ports import Lookup
from worker.failure import StoreUnavailable, store_silent
from worker.pipeline.ports import Refused, StoreResult, Unproven, Written
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.conversations.conversation import ConversationRecord
    from worker.failure import Failure
    from worker.pipeline.translate import Activity


class FakePublisher:
    """Takes everything, except for routing keys that are unbound or full; nothing once the connection is lost."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self.unbound: set[str] = set()
        self.full: set[str] = set()
        self.lost = False
        self.answers = asyncio.Event()
        """Cleared, it confirms nothing."""
        self.answers.set()

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        await self.answers.wait()
        return [self._publish(message) for message in messages]

    def _publish(self, message: Outgoing) -> Confirmation:
        if self.lost:
            return Confirmation.UNKNOWN
        if message.routing_key in self.unbound:
            return Confirmation.RETURNED
        if message.routing_key in self.full:
            return Confirmation.NACKED
        self.taken.append(message)
        return Confirmation.CONFIRMED


class FakeStore:
    """Knows which events it holds; refuses what it is told to, and everything while it is away."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.refuses: dict[str, Failure] = {}
        self.unproven: dict[str, Failure] = {}
        self.reasons: list[str | None] = []
        self.away = False
        self.bug: Exception | None = None

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        assert now_ms > 0
        if self.away:
            raise StoreUnavailable(store_silent())
        if self.bug:
            raise self.bug
        return [self._store(activity) for activity in activities]

    def _store(self, activity: Activity) -> StoreResult:
        if activity.message.id in self.refuses:
            return Refused(self.refuses[activity.message.id])
        if activity.message.id in self.unproven:
            return Unproven(self.unproven[activity.message.id])
        self.reasons.append(activity.stored_because)
        if activity.event_id in self.held:
            return Written.DUPLICATE
        self.held.add(activity.event_id)
        return Written.STORED


@dataclass
class FakeRegistry:
    """Knows the records it was given."""

    records: dict[str, ConversationRecord] = field(default_factory=dict)
    away: bool = False
    bug: Exception | None = None
    questions: list[tuple[set[str], set[str]]] = field(default_factory=list)

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        self.questions.append((set(conversation_ids), set(session_ids)))
        if self.away:
            raise StoreUnavailable(store_silent())
        if self.bug:
            raise self.bug
        by_session = {fact.value["id"]: record for record in self.records.values() for fact in record.sessions}
        return Lookup(
            {key: record for key, record in self.records.items() if key in conversation_ids},
            {key: record for key, record in by_session.items() if key in session_ids},
        )


class SilentRegistry(FakeRegistry):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        await self.answers.wait()
        return await super().lookup(conversation_ids, session_ids)
