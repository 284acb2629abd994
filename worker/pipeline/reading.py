"""From a delivery to its message, its place and its event; and the same again, later, for those that need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from worker import contract
from worker.cim import Identity, Rejected, parse
from worker.dead_letters.envelope import carried_headers
from worker.dead_letters.provenance import refused_before, stored_because, strip_reserved_headers
from worker.failure import Failure
from worker.pipeline.inbound import Inbound
from worker.pipeline.ports import StoredBecause
from worker.pipeline.translate import Destination, place, translate
from worker.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.cim import CimMessage
    from worker.pipeline.ports import Tracing
    from worker.pipeline.senders import Senders
    from worker.pipeline.translate import Activity
    from worker.ports import Delivery


_REASONS: Final = {because.value: because for because in StoredBecause}


class Rejection(NamedTuple):
    """A delivery that no message can be made of, or whose sender may not send it."""

    failure: Failure
    identity: Identity


class Reading:
    """Reads deliveries. No I/O."""

    def __init__(
        self,
        senders: Senders,
        *,
        max_message_bytes: int,
        event_names: Mapping[str, str],
        tracing: Tracing | None = None,
    ) -> None:
        """Take bodies up to *max_message_bytes*; name events by intent after *event_names*."""
        self._tracing = tracing
        self._senders = senders
        self._event_names = event_names
        self._max_message_bytes = max_message_bytes

    def read(self, delivery: Delivery, now: int) -> Inbound | Rejection:
        """Return the delivery with its message, or why there is none. *now* in epoch ms."""
        strip_reserved_headers(delivery, self._senders.trusted)
        if self._tracing is not None:
            self._tracing.begin(delivery)
        message = self._parse(delivery, now)
        if isinstance(message, Rejected):
            return Rejection(Failure.of_problems(message.problems), message.identity)
        problem = self._senders.problem(message, delivery)
        if problem is not None:
            return Rejection(Failure.of_problems((problem,)), message.identity)
        return Inbound(delivery, now, message, message.identity, message.channel_session_id, message.customer_id)

    def route(self, inbound: Inbound, now: int, *, write: bool = True) -> Destination:
        """Translate the message at *now* (epoch ms) and say where it goes first.

        For the hub its event is written, unless *write* is false, and the message dropped; for the store it keeps its
        activity.
        """
        inbound.translated_at = now
        message = self._message_of(inbound)
        destination, inbound.stored_because = place(message, inbound.conversation)
        if destination is Destination.HUB and (because := _decided(inbound.delivery)) is not None:
            destination, inbound.stored_because = Destination.STORE, because
        inbound.activity = activity = self._translate(inbound, message)
        inbound.size = message.size + activity.added_bytes
        if message.conversation_id is None and inbound.conversation is not None:
            inbound.identity = inbound.identity._replace(conversation_id=inbound.conversation.id)
        if destination is Destination.HUB:
            if self._tracing is not None:
                self._tracing.sends(inbound.delivery, contract.HUB, activity.conversation_id or "")
            if write:
                inbound.outgoing = _outgoing(inbound.delivery, activity, now)
            inbound.drop_parsed()
        return destination

    def event_of(self, inbound: Inbound) -> Outgoing:
        """Return the written event of a message that was routed to the hub; the very same when it is made again."""
        activity = self._translate(inbound, self._message_of(inbound))
        return _outgoing(inbound.delivery, activity, inbound.translated_at)

    def activity_of(self, inbound: Inbound) -> Activity:
        """Return the activity of a message that was routed, to be written; the very same when it is made again."""
        if self._tracing is not None:
            self._tracing.stores(inbound.delivery)
        return inbound.activity or self._translate(inbound, self._message_of(inbound))

    def _translate(self, inbound: Inbound, message: CimMessage) -> Activity:
        return translate(
            message,
            inbound.conversation,
            now=inbound.translated_at,
            event_names=self._event_names,
            stored_because=inbound.stored_because,
        )

    def _parse(self, delivery: Delivery, received_at: int) -> CimMessage | Rejected:
        properties = delivery.properties
        headers = properties.headers
        return parse(
            delivery.body,
            received_at=received_at,
            max_bytes=self._max_message_bytes,
            content_encoding=properties.content_encoding,
            idempotency_key=headers.get(contract.IDEMPOTENCY_KEY) if headers else None,
        )

    def _message_of(self, inbound: Inbound) -> CimMessage:
        if inbound.message is not None:
            return inbound.message
        message = self._parse(inbound.delivery, inbound.read_at)
        if isinstance(message, Rejected):
            msg = "a message that was valid is not any more"
            raise AssertionError(msg)  # noqa: TRY004 - a bug of ours
        return message


def _decided(delivery: Delivery) -> StoredBecause | None:
    """Return why a message is stored though somebody may listen by now, if that was decided before it waited."""
    if not delivery.properties.headers:
        return None
    if refused_before(delivery) > 1:  # the other subscribers have it twice already
        return StoredBecause.REFUSED_BY_SUBSCRIBER
    return _REASONS.get(stored_because(delivery) or "")


def _outgoing(delivery: Delivery, activity: Activity, now: int) -> Outgoing:
    fields = (
        contract.HUB,
        activity.conversation_id or "",
        activity.event_id,
        activity.event_bytes(),
        delivery.properties.correlation_id or activity.message.id,
        activity.name,
        contract.APP_ID,
        now // 1000,
        "application/json",
        None,
        carried_headers(delivery),
        None,
    )
    return tuple.__new__(Outgoing, fields)
