"""The Message Translator and the Content-Based Router: the event of a message, and where it goes first. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from worker.pipeline.ports import StoredBecause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.cim import CimMessage
    from worker.conversations.conversation import ChannelSession, Conversation, Room

EVENT_NAME = "THIRD_PARTY_ACTIVITY"
EVENT_TYPE = "ACTIVITY"
_TYPE_AND_TIMESTAMP = f',"type":"{EVENT_TYPE}","timestamp":'.encode()
_NAME = orjson.dumps(EVENT_NAME)
_NO_NAMES: Mapping[str, str] = {}


class Destination(StrEnum):
    """Where an activity goes first."""

    HUB = "hub"
    """To the conversation's exchange; if nobody listens there, the broker returns it and it is stored."""
    STORE = "store"
    """To the Conversations store."""


class Contradiction(StrEnum):
    """An anchor of a message that says something else than the conversation it belongs to."""

    CUSTOMER = "customer"
    """The conversation belongs to another customer."""
    CHANNEL_SESSION = "channel_session"
    """The channel session belongs to another conversation."""


class Activity(NamedTuple):
    """A message on its way, with its place: what its event and its document are made of."""

    timestamp: int
    """Epoch milliseconds: the event's own time."""
    message: CimMessage
    conversation_id: str | None
    customer_id: str | None
    """The customer the message names, else the one the registry knows."""
    channel_session: ChannelSession | None
    room: Room | None
    stored_because: StoredBecause | None = None
    """Why it is stored, when it is."""
    name: str = EVENT_NAME
    """What the event is called."""

    @property
    def event_id(self) -> str:
        """What the event and its document are known by."""
        return self.message.event_id

    @property
    def added_bytes(self) -> int:
        """Bytes that the registry adds to the message in its event."""
        session, room = self.channel_session, self.room
        return (len(session.json) if session else 0) + (len(room.json) if room else 0)

    @property
    def channel_session_id(self) -> str | None:
        """The session the message names, else the one the registry knows."""
        return self.message.channel_session_id or (self.channel_session.id if self.channel_session else None)

    @property
    def room_id(self) -> str | None:
        """The room the message names, else the one the registry knows."""
        return self.message.room_id or (self.room.id if self.room else None)

    @property
    def data(self) -> dict[str, Any]:
        """The message, with the customer the registry knows where it names none: agent desks read it unguarded."""
        return self._data(self.message.wire)

    def _data(self, wire: dict[str, Any]) -> dict[str, Any]:
        if not self._lacks_customer:
            return wire
        header = wire["header"]
        return {**wire, "header": {**header, "customer": {**(header.get("customer") or {}), "_id": self.customer_id}}}

    @property
    def _lacks_customer(self) -> bool:
        """Whether the registry knows the customer that the message does not name."""
        return self.message.customer_id is None and self.customer_id is not None

    @property
    def event(self) -> dict[str, Any]:
        """The CIM event envelope, recreated each time."""
        session, room, wire = self.channel_session, self.room, self.message.wire
        return self._envelope(
            wire["header"]["sender"],
            self._data(wire),
            session.value if session else None,
            room.value if room else None,
        )

    def event_bytes(self) -> bytes:
        """Return the event as compact UTF-8 JSON, keys in the order of the message."""
        timestamp, message, conversation_id, _, session, room, _, name = self
        return b"".join(
            (
                b'{"id":"',
                message.event_id.encode(),
                b'","name":',
                _NAME if name is EVENT_NAME else orjson.dumps(name),
                _TYPE_AND_TIMESTAMP,
                b"%d" % timestamp,
                b',"conversationId":',
                orjson.dumps(conversation_id),
                b',"eventEmitter":',
                message.sender_json or orjson.dumps(message.sender),
                b',"channelSession":',
                session.json if session else b"null",
                b',"data":',
                self.data_bytes() or orjson.dumps(self.data),
                b',"roomInfo":',
                room.json if room else b"null",
                b"}",
            )
        )

    def data_bytes(self) -> bytes | None:
        """Return `data` as compact JSON where the message's own bytes give it, else None."""
        message = self.message
        if message.customer_id is None and self.customer_id is not None:
            return message.json_with_customer(self.customer_id)
        return message.json

    def _envelope(self, sender: object, data: object, channel_session: object, room_info: object) -> dict[str, Any]:
        return {
            "id": self.event_id,
            "name": self.name,
            "type": EVENT_TYPE,
            "timestamp": self.timestamp,
            "conversationId": self.conversation_id,
            "eventEmitter": sender,
            "channelSession": channel_session,
            "data": data,
            "roomInfo": room_info,
        }


def translate(
    message: CimMessage,
    conversation: Conversation | None,
    *,
    now: int,
    event_names: Mapping[str, str] = _NO_NAMES,
    stored_because: StoredBecause | None = None,
) -> Activity:
    """Return the activity a message becomes at `now` (epoch ms).

    `conversation` is what the registry knows (None: nothing); it fills the channel session, the room and the customer.
    `event_names` are event names by intent; any other intent means `EVENT_NAME`. `stored_because` is
    why it goes to the store.
    """
    name = event_names.get(message.intent or "", EVENT_NAME) if event_names else EVENT_NAME
    if conversation is None:
        return Activity(now, message, message.conversation_id, message.customer_id, None, None, stored_because, name)
    fields = (
        now,
        message,
        message.conversation_id or conversation.id,
        message.customer_id or conversation.customer_id,
        _session_of(message, conversation),
        conversation.room,
        stored_because,
        name,
    )
    return tuple.__new__(Activity, fields)


def contradictions(
    customer_id: str | None, conversation: Conversation, session_owner: Conversation | None
) -> Iterator[Contradiction]:
    """Yield the anchors of a message that contradict where it belongs, as far as is known; they never change the route.

    `customer_id` is the one it names, `conversation` its own, `session_owner` the one its channel session is known to
    belong to, if any is known.
    """
    if customer_id is not None and conversation.customer_id not in {None, customer_id}:
        yield Contradiction.CUSTOMER
    if session_owner is not None and session_owner.id != conversation.id:
        yield Contradiction.CHANNEL_SESSION


def place(message: CimMessage, conversation: Conversation | None) -> tuple[Destination, StoredBecause | None]:
    """Return where `message` goes first, given what the registry knows (None: nothing), and if to the store, why.

    A conversation the registry has never heard of may still be live: the broker has the last word.
    """
    if conversation is not None:
        return (Destination.HUB, None) if conversation.active else (Destination.STORE, StoredBecause.CLOSED)
    if message.conversation_id is not None:
        return Destination.HUB, None
    if message.channel_session_id is not None:
        return Destination.STORE, StoredBecause.UNKNOWN_SESSION
    return Destination.STORE, StoredBecause.STAND_ALONE


def _session_of(message: CimMessage, conversation: Conversation) -> ChannelSession | None:
    if message.channel_session_id is not None:
        return conversation.session(message.channel_session_id)
    return conversation.current_session
