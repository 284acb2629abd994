"""What the registry knows about a conversation, as far as a message needs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

import orjson


class ConversationState(StrEnum):
    """The eight states of a conversation, from its beginning to its end."""

    CREATED = "CREATED"
    ACTIVE = "ACTIVE"
    ON_HOLD = "ON_HOLD"
    INACTIVE = "INACTIVE"
    CUSTOMER_LEFT = "CUSTOMER_LEFT"
    WRAP_UP = "WRAP_UP"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


NOT_ACTIVE = frozenset({ConversationState.CLOSING, ConversationState.CLOSED})
ENDED_SESSION_STATES = frozenset({"ENDED", "CLOSED"})


def is_active(state: str) -> bool:
    """Tell whether activities of a conversation in this state go live; states nobody has heard of do."""
    return state not in NOT_ACTIVE


def session_ended(session: dict[str, Any]) -> bool:
    """Tell whether a channel session is over: by its state, or by its flag when it carries no state."""
    state = session.get("state")
    name = state.get("name") if isinstance(state, dict) else state
    if isinstance(name, str):
        return name in ENDED_SESSION_STATES
    return session.get("isActive", session.get("active")) is False


class ChannelSession(NamedTuple):
    """A channel session of a conversation, kept as the JSON an event carries.

    Bytes, because a process remembers thousands of them: as a dict one takes five times the memory, and to write it
    into an event means to read all its parts, which have long left the processor's cache.
    """

    id: str
    ended: bool
    json: bytes

    @classmethod
    def of(cls, value: dict[str, Any]) -> Self:
        """Return the session in an object that has an `id`."""
        return cls(value["id"], session_ended(value), _json(value))

    @property
    def value(self) -> dict[str, Any]:
        """The object itself, recreated each time."""
        return _object(self.json)


class Room(NamedTuple):
    """The room of a conversation, kept as the JSON an event carries, for the reasons of `ChannelSession`."""

    id: str | None
    json: bytes

    @classmethod
    def of(cls, value: dict[str, Any]) -> Self:
        """Return the room in an object."""
        room_id = value.get("id")
        return cls(room_id if isinstance(room_id, str) else None, _json(value))

    @property
    def value(self) -> dict[str, Any]:
        """The object itself, recreated each time."""
        return _object(self.json)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of the registry."""

    id: str
    state: ConversationState | str
    customer_id: str | None
    room: Room | None
    channel_sessions: tuple[ChannelSession, ...]
    """Oldest news first, ended ones included."""
    updated_at: int
    """Epoch milliseconds of the newest news."""

    @property
    def active(self) -> bool:
        """Whether activities go live: in every state but CLOSING and CLOSED."""
        return is_active(self.state)

    @property
    def current_session(self) -> ChannelSession | None:
        """The last session that has not ended, else the last one; for messages that name only the conversation."""
        sessions = self.channel_sessions
        return next((one for one in reversed(sessions) if not one.ended), sessions[-1] if sessions else None)

    def session(self, session_id: str) -> ChannelSession | None:
        """Return the channel session with this id, or None."""
        for one in self.channel_sessions:  # no generator: this runs twice for every live message
            if one.id == session_id:
                return one
        return None


def _json(value: dict[str, Any]) -> bytes:
    # What JSON has no type for was put into the registry by hand; its conversation must not die of it.
    written = orjson.dumps(value, default=str)
    return bytes(memoryview(written))  # a copy: the writer gets its buffer much larger, and what it gives back is lost


def _object(json: bytes) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(json)
    return value
