"""The Conversations store as the pipeline needs it, and what became of one write. Values, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.failure import Failure
    from worker.pipeline.translate import Activity
    from worker.ports import Delivery


class Written(StrEnum):
    """The store answered, and the answer is known to be durable."""

    STORED = "stored"
    """A new document, acknowledged by a majority."""
    DUPLICATE = "duplicate"
    """The store holds this event already; it was not overwritten."""


class StoredBecause(StrEnum):
    """Why an activity goes to the store. Values are part of the public contract."""

    STAND_ALONE = "stand_alone"
    """It names a customer only."""
    CLOSED = "closed"
    """Its conversation is closed or closing."""
    UNKNOWN_CONVERSATION = "unknown_conversation"
    """The registry has never heard of its conversation, and nobody listens to it."""
    UNKNOWN_SESSION = "unknown_session"
    """The registry has never heard of its channel session."""
    NOBODY_LISTENS = "nobody_listens"
    """Its conversation is active, but no queue is bound to the exchange."""
    REFUSED_BY_SUBSCRIBER = "refused_by_subscriber"
    """A queue bound to the conversation's exchange refused it, twice."""
    EVENT_TOO_LARGE = "event_too_large"
    """Its event is larger than the broker takes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The store says that this one document can never be stored, by a reason that is listed as the document's own."""

    failure: Failure
    """Why: permanent."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """This document was not stored, and one failure cannot tell whether the fault is its own or the store's.

    A document whose neighbours were stored by the same call, or that was alone in it. When several fail in this way and
    none is stored, that is evidence enough: `StoreUnavailable` is raised instead.
    """

    failure: Failure
    """Why: unknown when nobody listed the reason; an outage or an operator's fault when the reason is the store's but
    hit only some documents (one shard without a primary, say)."""


StoreResult = Written | Refused | Unproven
"""The result of storing one activity."""


class Tracing(Protocol):
    """Follows deliveries in traces. No method raises, and what it costs is spent only when tracing is on."""

    def begin(self, delivery: Delivery) -> None:
        """Work on *delivery* begins; what is made of it carries on its trace, in its own headers."""

    def sends(self, delivery: Delivery, exchange: str, routing_key: str) -> None:
        """A message is about to be made of *delivery*, and sent there."""

    def stores(self, delivery: Delivery) -> None:
        """The activity of *delivery* is about to be written."""


class ActivityWriter(Protocol):
    """Writes activities to the Conversations store, each at most once. Raises `AdapterError` when it cannot."""

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        """Return what became of each, in order; all of it durable."""
