"""The registry and the conversation exchanges, as the rest of the worker needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.ports import Consumer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.conversations.conversation import ConversationRecord, UnreadableRecord
    from worker.conversations.lifecycle import LifecycleChange
    from worker.failure import Failure


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the registry knows about the ids asked for; an id it does not know, or cannot read, is missing."""

    by_conversation: Mapping[str, ConversationRecord]
    by_session: Mapping[str, ConversationRecord]


class ConversationLookup(Protocol):
    """Answers which conversations exist. Raises `AdapterError` when it cannot."""

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        """Return what is known about these conversations and channel sessions."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that is in the registry."""

    record: ConversationRecord
    """The conversation as it is afterwards."""
    written: bool
    """Whether it had to be written; False when the registry knew as much or more already."""


class RegistryPort(Protocol):
    """The registry, for changing it. Raises `StoreUnavailable` or `OperatorFault`."""

    async def apply_each(self, changes: Sequence[LifecycleChange]) -> list[Applied | Failure]:
        """Merge changes; return for each what became of its conversation."""

    async def read(self, conversation_ids: Collection[str]) -> Mapping[str, ConversationRecord]:
        """Return the records of these conversations by id."""

    async def list(
        self, *, active: bool, limit: int, after: str | None
    ) -> Sequence[ConversationRecord | UnreadableRecord]:
        """Return a page of active or closed conversations in the order of their ids."""

    async def with_exchange(
        self, *, active: bool, limit: int, after: str | None
    ) -> Sequence[ConversationRecord | UnreadableRecord]:
        """Return a page of those for which an exchange may have been made and not deleted."""

    async def exchanges_deleted(self, conversation_ids: Collection[str]) -> None:
        """Note that the exchanges of these conversations are gone, unless they are active again."""


class ConversationExchangePort(Protocol):
    """The exchange of each conversation. Idempotent; returns what went wrong for each, in order, and raises nothing."""

    async def open(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Make the exchanges exist and bind them to the hub."""

    async def unbind(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Take the exchanges off the hub."""

    async def delete(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Delete the exchanges that are ours."""


class RetryDecision(Protocol):
    """The one decision between another try and giving up."""

    def gives_up(self, failure: Failure, attempt: int) -> bool:
        """Tell whether the failed try number *attempt* (from 1) was the last one."""


class EventQueue(Consumer, Protocol):
    """A consumer that is closed at its end."""

    async def close(self) -> None:
        """End it; what is unsettled goes back to the queue."""


class Seat(Protocol):
    """What only one process of the pool can hold at a time. Raises what the broker says."""

    async def take(self) -> bool:
        """Take the seat if it is free; tell whether we hold it."""

    async def wait(self, seconds: float) -> bool:
        """Wait until somebody asks for a comparison, or *seconds* have passed; tell whether we still hold the seat."""
