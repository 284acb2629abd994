"""A delivery on its way through the pipeline: with its message while that is needed, and without it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import contract
from worker.dead_letters.envelope import Identity, carried_headers
from worker.ports import Outgoing

if TYPE_CHECKING:
    from worker.activity import Activity
    from worker.cim import CimMessage, Conversation
    from worker.ports import Delivery


@dataclass(slots=True, eq=False)
class Work:
    """A delivery and the message in it, until its event is written."""

    delivery: Delivery
    received_at: float
    """Monotonic seconds."""
    read_at: int
    """Epoch milliseconds: what stands in for a missing timestamp."""
    message: CimMessage
    conversation: Conversation | None = None
    activity: Activity | None = None

    @property
    def identity(self) -> Identity:
        """Whose message it is, for letters and logs."""
        message = self.message
        conversation_id = message.conversation_id or (self.conversation.id if self.conversation else None)
        return Identity(message.sender_id, message.sender_name, message.id, conversation_id)


@dataclass(slots=True, eq=False)
class HubEvent:
    """A delivery and the event made of it, as bytes, until the effect of its publish is known.

    It holds no message: a parsed one takes ten times the memory of its bytes, and the rare event that comes back can
    be made again from the delivery.
    """

    delivery: Delivery
    received_at: float
    read_at: int
    translated_at: int
    """Epoch milliseconds: the event's own time."""
    conversation: Conversation | None
    outgoing: Outgoing

    @classmethod
    def of(cls, work: Work, activity: Activity, now: int) -> HubEvent:
        """Write the event of *activity*, translated at *now*."""
        outgoing = Outgoing(
            contract.HUB,
            activity.conversation_id or "",
            activity.event_id,
            activity.event_bytes(),
            correlation_id=work.delivery.properties.correlation_id or activity.message.id,
            type=contract.EVENT_TYPE_PROPERTY,
            app_id=contract.APP_ID,
            timestamp=now // 1000,
            headers=carried_headers(work.delivery),
        )
        return cls(work.delivery, work.received_at, work.read_at, now, work.conversation, outgoing)
