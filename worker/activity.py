"""The Message Translator and the Content-Based Router: what event a message becomes, and where it goes first. Pure."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from worker.cim import CimMessage, Conversation

EVENT_NAME = "THIRD_PARTY_ACTIVITY"
EVENT_TYPE = "ACTIVITY"


class Destination(StrEnum):
    """Where an activity goes first."""

    HUB = "hub"
    """To the conversation's exchange; if nobody listens there, the broker returns it and it is stored."""
    STORE = "store"
    """To the Conversations store."""


class Activity(NamedTuple):
    """An event on its way, with the ids the store keeps beside it."""

    event_id: str
    event: dict[str, Any]
    """The CIM event envelope; `data` is the message."""
    conversation_id: str | None
    customer_id: str | None
    channel_session_id: str | None
    room_id: str | None
    body: bytes
    """The delivery's bytes, as they came."""
    message_id: str
    sender_id: str

    @property
    def digest(self) -> str:
        """What tells a repetition from a conflict; reckoned anew each time, for the store only."""
        return payload_digest(self.body)

    def event_bytes(self) -> bytes:
        """Return the event as compact UTF-8 JSON, keys in the order of the message."""
        return orjson.dumps(self.event)


def event_id(sender_id: str, message_id: str) -> str:
    """Return the event id of a message: 24 hex digits, the same for the same sender and message for ever."""
    return sha256(b"%b\0%b" % (sender_id.encode(), message_id.encode())).hexdigest()[:24]


def payload_digest(body: bytes) -> str:
    """Return the SHA-256 of a delivery's bytes as 64 hex digits."""
    return sha256(body).hexdigest()


def translate(message: CimMessage, conversation: Conversation | None, *, now: int, body: bytes) -> Activity:
    """Return the activity a message becomes at `now` (epoch ms).

    `conversation` is what the registry knows (None: nothing); it fills the channel session and the room.
    `body` is the bytes the message was parsed from.
    """
    session = _session_of(message, conversation)
    room = conversation.room_info if conversation else None
    conversation_id = message.conversation_id or (conversation.id if conversation else None)
    identity = event_id(message.sender_id, message.id)
    event = {
        "id": identity,
        "name": EVENT_NAME,
        "type": EVENT_TYPE,
        "timestamp": now,
        "conversationId": conversation_id,
        "eventEmitter": message.sender,
        "channelSession": session,
        "data": message.wire,
        "roomInfo": room,
    }
    return Activity(
        identity,
        event,
        conversation_id,
        message.customer_id or (conversation.customer_id if conversation else None),
        message.channel_session_id or (session.get("id") if session else None),
        message.room_id or (room.get("id") if room else None),
        body,
        message.id,
        message.sender_id,
    )


def route(message: CimMessage, conversation: Conversation | None) -> Destination:
    """Return where the activity of `message` goes first, given what the registry knows (None: nothing).

    A conversation the registry has never heard of may still be live: the broker has the last word.
    """
    if conversation is not None:
        return Destination.HUB if conversation.active else Destination.STORE
    return Destination.HUB if message.conversation_id is not None else Destination.STORE


def _session_of(message: CimMessage, conversation: Conversation | None) -> dict[str, Any] | None:
    if conversation is None:
        return None
    if message.channel_session_id is not None:
        return conversation.session(message.channel_session_id)
    return conversation.current_session
