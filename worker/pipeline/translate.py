"""The Message Translator and the Content-Based Router: the event of a message, and where it goes first. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from worker.pipeline.ports import StoredBecause

if TYPE_CHECKING:
    from worker.cim import CimMessage
    from worker.conversations.conversation import ChannelSession, Conversation, Room

EVENT_NAME = "THIRD_PARTY_ACTIVITY"
EVENT_TYPE = "ACTIVITY"


class Destination(StrEnum):
    """Where an activity goes first."""

    HUB = "hub"
    """To the conversation's exchange; if nobody listens there, the broker returns it and it is stored."""
    STORE = "store"
    """To the Conversations store."""


class Activity(NamedTuple):
    """A message on its way, with its place: what its event and its document are made of."""

    timestamp: int
    """Epoch milliseconds: the event's own time."""
    message: CimMessage
    conversation_id: str | None
    customer_id: str | None
    channel_session: ChannelSession | None
    room: Room | None
    stored_because: StoredBecause | None = None
    """Why it is stored, when it is."""

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
    def event(self) -> dict[str, Any]:
        """The CIM event envelope, recreated each time; `data` is the message."""
        session, room = self.channel_session, self.room
        return self._envelope(session.value if session else None, room.value if room else None)

    def event_bytes(self) -> bytes:
        """Return the event as compact UTF-8 JSON, keys in the order of the message."""
        session, room = self.channel_session, self.room
        return orjson.dumps(
            self._envelope(
                orjson.Fragment(session.json) if session else None, orjson.Fragment(room.json) if room else None
            )
        )

    def _envelope(self, channel_session: object, room_info: object) -> dict[str, Any]:
        message = self.message
        return {
            "id": self.event_id,
            "name": EVENT_NAME,
            "type": EVENT_TYPE,
            "timestamp": self.timestamp,
            "conversationId": self.conversation_id,
            "eventEmitter": message.sender,
            "channelSession": channel_session,
            "data": message.wire,
            "roomInfo": room_info,
        }


def translate(message: CimMessage, conversation: Conversation | None, *, now: int) -> Activity:
    """Return the activity a message becomes at `now` (epoch ms).

    `conversation` is what the registry knows (None: nothing); it fills the channel session and the room.
    """
    if conversation is None:
        return Activity(now, message, message.conversation_id, message.customer_id, None, None)
    return Activity(
        now,
        message,
        message.conversation_id or conversation.id,
        message.customer_id or conversation.customer_id,
        _session_of(message, conversation),
        conversation.room,
    )


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
