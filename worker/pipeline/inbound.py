"""A delivery on its way through the pipeline, with as much of its message as is needed at the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import contract
from worker.dead_letters.provenance import suspected_at

if TYPE_CHECKING:
    from worker.cim import CimMessage, Identity
    from worker.conversations.conversation import Conversation
    from worker.pipeline.ports import StoredBecause
    from worker.pipeline.translate import Activity
    from worker.ports import Delivery, Outgoing


@dataclass(slots=True, eq=False)
class Inbound:
    """A delivery and what was made of it so far.

    The parsed message takes ten times the memory of its bytes and more, so it is dropped when the event is written or
    when too many wait for the store; `reading.Reading` makes it again, the very same, for the few that need it.
    """

    delivery: Delivery
    read_at: int
    """Epoch milliseconds: what stands in for a missing timestamp."""
    message: CimMessage | None
    identity: Identity
    """Whose message it is; with the conversation that the registry found, once it is routed."""
    channel_session_id: str | None
    """The session that the message names."""
    customer_id: str | None
    """The customer that the message names."""
    conversation: Conversation | None = None
    translated_at: int = 0
    """Epoch milliseconds: the event's own time; 0 before it is translated."""
    activity: Activity | None = None
    outgoing: Outgoing | None = None
    """The event, written, when it goes to the hub."""
    stored_because: StoredBecause | None = None
    """Why it goes to the store, when it does."""
    queued_at: float = 0.0
    """Monotonic seconds: since when it waits for a lookup, or then for a write."""
    size: int = 0
    """Bytes of its body and of what the registry adds to it; 0 before it is translated."""

    @property
    def has_waited(self) -> bool:
        """Whether it comes from the waiting room."""
        return self.delivery.queue == contract.WAITING

    @property
    def suspected_since(self) -> int | None:
        """When (epoch ms) the store failed for it, and nobody could tell whose fault that was; None if it did not.

        By our own clock at the latest when it came: another process with a fast clock may have written the time.
        """
        at = suspected_at(self.delivery) if self.has_waited else None
        return None if at is None else min(at, self.read_at)

    def drop_parsed(self) -> None:
        """Free the parsed message."""
        self.message = self.activity = None
