"""What the pipeline needs from the outside, in its own words: deliveries, publishes, registry and store. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from worker.activity import Activity
    from worker.lifecycle import ConversationRecord
    from worker.store_result import StoreResult


@dataclass(slots=True)
class Properties:
    """AMQP message properties. Times are epoch seconds; header values are plain Python, timestamps as integers."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    damaged: bool = False
    """Whether some of it could not be read; what is here was read before the damage."""


class Delivery(Protocol):
    """What RabbitMQ handed us."""

    body: bytes
    exchange: str
    routing_key: str
    queue: str
    redelivered: bool

    @property
    def properties(self) -> Properties:
        """The message's properties; reading them never raises."""


class Receipt(StrEnum):
    """What became of one publish."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    """No queue took it. The broker confirms such a publish too, after the return."""
    NACKED = "nacked"
    UNKNOWN = "unknown"
    """The connection ended before the confirm: it may have arrived or not."""


class Outgoing(NamedTuple):
    """One message to publish: mandatory, persistent, confirmed."""

    exchange: str
    routing_key: str
    message_id: str
    """A return is matched by it, for a return carries no delivery tag."""
    body: bytes
    correlation_id: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: int | None = None
    """Epoch seconds."""
    content_type: str | None = "application/json"
    content_encoding: str | None = None
    headers: Mapping[str, str | int] | None = None


class EventPublisher(Protocol):
    """Publishes and waits until the effect of each publish is known."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Receipt]:
        """Return the receipts in the order of *messages*. Does not raise for a lost connection: that is `UNKNOWN`."""


class Lookup(Protocol):
    """What the registry knows about some conversations."""

    @property
    def by_conversation(self) -> Mapping[str, ConversationRecord]:
        """Records by conversation id."""

    @property
    def by_session(self) -> Mapping[str, ConversationRecord]:
        """Records by the id of one of their channel sessions."""


class ConversationLookup(Protocol):
    """Answers which conversations exist. Raises `AdapterError` when it cannot."""

    async def lookup(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup:
        """Return what is known about these conversations and channel sessions."""


class ActivityWriter(Protocol):
    """Writes activities to the Conversations store, each at most once. Raises `AdapterError` when it cannot."""

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        """Return what became of each, in order; all of it durable."""
