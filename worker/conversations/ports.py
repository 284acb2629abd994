"""The registry and the conversation exchanges, as the rest of the worker needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.conversations.conversation import ConversationRecord, UnreadableRecord
    from worker.conversations.lifecycle import LifecycleChange


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the registry knows about the ids asked for; an id it does not know, or cannot read, is missing."""

    by_conversation: Mapping[str, ConversationRecord]
    by_session: Mapping[str, ConversationRecord]


class ConversationLookup(Protocol):
    """Answers which conversations exist. Raises `AdapterError` when it cannot."""

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        """Return what is known about these conversations and channel sessions."""


class ConversationExchangePort(Protocol):
    """The exchange of each conversation. Every method is idempotent and raises what the broker says."""

    async def open(self, conversation_id: str) -> None:
        """Make it exist and bind it to the hub."""

    async def unbind(self, conversation_id: str) -> None:
        """Take it off the hub."""

    async def delete(self, conversation_id: str) -> None:
        """Delete it."""


class RegistryPort(Protocol):
    """The registry, for changing it. Raises `AdapterError`."""

    async def apply(self, change: LifecycleChange) -> ConversationRecord:
        """Merge a change and return the record as it is afterwards."""

    async def get(self, conversation_id: str) -> ConversationRecord | UnreadableRecord | None:
        """Return one record."""

    async def closed_since(self, since_ms: int) -> Sequence[ConversationRecord]:
        """Return conversations closed at *since_ms* or later."""


class Reconciler(Protocol):
    """Makes a conversation's exchange match the registry again."""

    def returned(self, conversation_id: str) -> None:
        """Say that a live event of this conversation came back: nobody listens, or its exchange is gone.

        Never blocks and never raises; acts at most once in ten seconds per conversation.
        """
