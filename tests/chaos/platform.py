"""The contact-centre platform as the worker sees it: it opens and closes conversations, and subscribers bind queues."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pika
import pymongo
import pymongo.errors

from tests.chaos.messages import VHOST, customer_of
from tests.chaos.world import DATABASE

if TYPE_CHECKING:
    from tests.chaos.world import World

_EVENTS = "cim.conversation-events"
_SHARED_QUEUES = 4
NARROW_QUEUE = "chaos.narrow"
FULL_QUEUE = "chaos.full"
CALM_QUEUE = "chaos.calm"
_EXCHANGES_SECONDS = 60.0


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
        await self.bind_all()

    async def bind_all(self) -> None:
        """Bind the subscriber of every active conversation, once the worker has made its exchange."""
        for conversation in self._world.places.to_open:
            await self.bind(conversation)

    async def wait_for_exchanges(self) -> None:
        """Wait until the worker has bound the exchange of every active conversation to the hub again."""
        wanted = {exchange_of(conversation) for conversation in self._world.places.to_open}
        left = wanted
        deadline = time.monotonic() + _EXCHANGES_SECONDS
        while left and time.monotonic() < deadline:
            await asyncio.sleep(0.3)
            left = wanted - await self._bound()
        if left:
            example = f"{len(left)} of {len(wanted)} after {_EXCHANGES_SECONDS:g} s, {min(left)} for one"
            self._world.ledger.findings.add("exchanges that never come back", example)

    async def wait_for_registry(self) -> None:
        """Wait until the worker has written down the state of every conversation as it was told last.

        Raises TimeoutError when it never does.
        """
        await asyncio.to_thread(self._wait_for_registry)

    def _wait_for_registry(self) -> None:
        places = self._world.places
        wanted = dict.fromkeys(places.to_open, "ACTIVE") | dict.fromkeys(places.closed, "CLOSED")
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self._world.store.uri, timeoutMS=5000)
        deadline = time.monotonic() + _EXCHANGES_SECONDS
        with client:
            while time.monotonic() < deadline:
                with contextlib.suppress(pymongo.errors.PyMongoError):  # the store may be coming back
                    records = client[DATABASE]["conversations"].find({}, {"state": 1})
                    if {one["_id"]: one["state"] for one in records}.items() >= wanted.items():
                        return
                time.sleep(0.2)
        raise TimeoutError("the registry never learnt which conversations are open, and which are closed")

    async def tell(self, state: str, *conversations: str, ahead_ms: int = 0) -> None:
        """Publish the state of conversations, each twice and with an older contradiction between: both are harmless.

        *ahead_ms* is how far ahead the clock is that writes their times.
        """
        opposite = "CLOSED" if state == "ACTIVE" else "ACTIVE"
        events = []
        for conversation in conversations:
            now = max(time.time_ns() // 1_000_000, self._told_at.get(conversation, 0) + 1)
            old = self._told_at.get(conversation, 1_000_000_000_000) - 1
            self._told_at[conversation] = now
            told = state_event(conversation, state, now + ahead_ms)
            events += [told, state_event(conversation, opposite, old), told]

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
        if queue not in {FULL_QUEUE, CALM_QUEUE}:
            self._world.subscriber.watch(queue)

    async def _bound(self) -> set[str]:
        """Return the names of the exchanges that are bound to the hub."""
        path, answer = f"/exchanges/{VHOST}/cim.conversations/bindings/source", list[dict[str, Any]]()
        await self._world.manage(lambda: answer.extend(self._world.broker.management.request("GET", path)))
        return {binding["destination"] for binding in answer}

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
        # Watched until it is gone: a subscriber that reconnected meanwhile would leave the rest, and it is never empty.
        await self._world.admin(lambda channel: _delete_empty(channel, queue))
        self._world.subscriber.unwatch(queue)

    def queue_of(self, conversation: str) -> tuple[str, dict[str, Any]]:
        """Return the subscriber's queue and its arguments; in a cluster it has to outlive any one node."""
        queue, arguments = self._queue_of(conversation)
        return queue, {**arguments, **self._world.queue_arguments}

    def _queue_of(self, conversation: str) -> tuple[str, dict[str, Any]]:
        places = self._world.places
        if conversation in places.calm:
            return CALM_QUEUE, {}
        if conversation in places.full:
            return FULL_QUEUE, {"x-max-length": 0, "x-overflow": "reject-publish"}
        if conversation in places.narrow:
            return NARROW_QUEUE, {}
        if conversation in places.moving:
            return f"chaos.{conversation}", {}
        if conversation in places.quiet:
            return "chaos.quiet", {}
        return f"chaos.live.{places.live.index(conversation) % _SHARED_QUEUES}", {}


def _delete_empty(channel: Any, queue: str) -> None:
    """Delete a queue that nobody publishes to any more. Raises OSError while messages are in it.

    It is looked at first: a quorum queue cannot be deleted on the condition that it is empty.
    """
    if channel.queue_declare(queue, passive=True).method.message_count:
        raise OSError(f"{queue} is not empty")
    channel.queue_delete(queue)


def exchange_of(conversation: str) -> str:
    """Return the public name of a conversation's exchange."""
    return f"conversation.{conversation}"


def state_event(conversation: str, state: str, at: int | None = None) -> bytes:
    """Return the platform's event about the state of a conversation *at* a time (epoch ms; None: now)."""
    at = time.time_ns() // 1_000_000 if at is None else at
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
