"""The contact-centre platform as the worker sees it: it opens and closes conversations, and subscribers bind queues."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pika

from tests.chaos.messages import customer_of

if TYPE_CHECKING:
    from tests.chaos.world import World

_EVENTS = "cim.conversation-events"
_SHARED_QUEUES = 4
NARROW_QUEUE = "chaos.narrow"
FULL_QUEUE = "chaos.full"


class Platform:
    """Tells conversation events as the platform does, and keeps subscribers bound."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told_at: dict[str, int] = {}

    async def open_all(self) -> None:
        """Open and close what the places say, and bind the subscribers."""
        places = self._world.places
        await self.tell("ACTIVE", *places.to_open)
        await self.tell("CLOSED", *places.closed)
        for conversation in places.to_open:
            await self.bind(conversation)

    async def tell(self, state: str, *conversations: str) -> None:
        """Publish the state of conversations, each twice and with an older contradiction between: both are harmless."""
        opposite = "CLOSED" if state == "ACTIVE" else "ACTIVE"
        events = []
        for conversation in conversations:
            now = max(time.time_ns() // 1_000_000, self._told_at.get(conversation, 0) + 1)
            old = self._told_at.get(conversation, 1_000_000_000_000) - 1
            self._told_at[conversation] = now
            events += [_event(conversation, state, now), _event(conversation, opposite, old)]
            events.append(_event(conversation, state, now))

        def publish(channel: Any) -> None:
            channel.confirm_delivery()
            for event in events:
                channel.basic_publish(_EVENTS, "TOPIC_STATE_CHANGE_EVENT", event, pika.BasicProperties(delivery_mode=2))

        await self._world.admin(publish)

    async def bind(self, conversation: str) -> None:
        """Bind the conversation's subscriber, once the worker has made its exchange."""
        queue, arguments = self.queue_of(conversation)

        def declare_and_bind(channel: Any) -> None:
            channel.exchange_declare(exchange_of(conversation), passive=True)
            channel.queue_declare(queue, durable=True, arguments=arguments)
            channel.queue_bind(queue, exchange_of(conversation))

        await self._world.admin(declare_and_bind)
        if queue != FULL_QUEUE:
            self._world.subscriber.watch(queue)

    async def unbind(self, conversation: str) -> None:
        """Take the conversation's subscriber off its exchange; what it has already is still read."""
        queue, _ = self.queue_of(conversation)
        await self._world.admin(lambda channel: channel.queue_unbind(queue, exchange_of(conversation)))

    async def delete_exchange(self, conversation: str) -> None:
        """Delete the conversation's exchange behind the worker's back."""
        await self._world.admin(lambda channel: channel.exchange_delete(exchange_of(conversation)))

    async def delete_queue(self, conversation: str) -> None:
        """Delete the queue of an unbound subscriber once it is read empty."""
        queue, _ = self.queue_of(conversation)
        self._world.subscriber.unwatch(queue)
        await self._world.admin(lambda channel: channel.queue_delete(queue, if_empty=True))

    def queue_of(self, conversation: str) -> tuple[str, dict[str, Any]]:
        """Return the subscriber's queue and its arguments."""
        places = self._world.places
        if conversation in places.full:
            return FULL_QUEUE, {"x-max-length": 0, "x-overflow": "reject-publish"}
        if conversation in places.narrow:
            return NARROW_QUEUE, {}
        if conversation in places.moving:
            return f"chaos.{conversation}", {}
        return f"chaos.live.{places.live.index(conversation) % _SHARED_QUEUES}", {}


def exchange_of(conversation: str) -> str:
    """Return the public name of a conversation's exchange."""
    return f"conversation.{conversation}"


def _event(conversation: str, state: str, at: int) -> bytes:
    session = {
        "participantType": "ChannelSession",
        "id": f"session-{conversation}",
        "conversationId": conversation,
        "state": {"name": "STARTED", "reasonCode": "CUSTOMER"},
    }
    data = {
        "id": conversation,
        "state": state,
        "customer": customer_of(conversation),
        "channelSession": session,
        "roomInfo": {"id": f"room-{conversation}", "mode": "CONTACT_CENTER"},
    }
    event = {"id": f"{conversation}-{at}", "name": "TOPIC_STATE_CHANGE_EVENT", "timestamp": at, "data": data}
    return json.dumps(event).encode()
