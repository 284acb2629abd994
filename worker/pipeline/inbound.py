"""A delivery on its way through the pipeline: with its message while that is needed, and without it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker import contract
from worker.dead_letters.envelope import carried_headers
from worker.ports import Outgoing

if TYPE_CHECKING:
    from worker.cim import CimMessage, Identity
    from worker.conversations.conversation import Conversation
    from worker.pipeline.translate import Activity
    from worker.ports import Delivery


@dataclass(slots=True, eq=False)
class Inbound:
    """A delivery and the message in it, until its event is written."""

    delivery: Delivery
    read_at: int
    """Epoch milliseconds: what stands in for a missing timestamp."""
    message: CimMessage
    conversation: Conversation | None = None
    activity: Activity | None = None

    @property
    def identity(self) -> Identity:
        """Whose message it is, with the conversation that the registry found for it."""
        identity = self.message.identity
        if identity.conversation_id is None and self.conversation is not None:
            return replace(identity, conversation_id=self.conversation.id)
        return identity


@dataclass(slots=True, eq=False)
class HubEvent:
    """A delivery and the event made of it, as bytes, until the effect of its publish is known.

    It holds no message: a parsed one takes ten times the memory of its bytes, and the rare event that comes back can
    be made again from the delivery.
    """

    delivery: Delivery
    read_at: int
    translated_at: int
    """Epoch milliseconds: the event's own time."""
    conversation: Conversation | None
    outgoing: Outgoing

    @classmethod
    def of(cls, inbound: Inbound, activity: Activity, now: int) -> HubEvent:
        """Write the event of *activity*, translated at *now*."""
        outgoing = Outgoing(
            contract.HUB,
            activity.conversation_id or "",
            activity.event_id,
            activity.event_bytes(),
            correlation_id=inbound.delivery.properties.correlation_id or activity.message.id,
            type=contract.EVENT_TYPE_PROPERTY,
            app_id=contract.APP_ID,
            timestamp=now // 1000,
            headers=carried_headers(inbound.delivery),
        )
        return cls(inbound.delivery, inbound.read_at, now, inbound.conversation, outgoing)
