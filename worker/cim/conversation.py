"""What the registry knows about a conversation, as far as a message needs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of the registry."""

    id: str
    state: ConversationState | str
    customer_id: str | None
    room_info: dict[str, Any] | None
    channel_sessions: tuple[dict[str, Any], ...]
    """Oldest news first, ended ones included."""
    updated_at: int
    """Epoch milliseconds of the newest news."""

    @property
    def active(self) -> bool:
        """Whether activities go live: in every state but CLOSING and CLOSED."""
        return is_active(self.state)

    @property
    def current_session(self) -> dict[str, Any] | None:
        """The last session that has not ended, else the last one; for messages that name only the conversation."""
        sessions = self.channel_sessions
        return next((one for one in reversed(sessions) if not session_ended(one)), sessions[-1] if sessions else None)

    def session(self, session_id: str) -> dict[str, Any] | None:
        """Return the channel session with this id, or None."""
        for one in self.channel_sessions:  # no generator: this runs twice for every live message
            if one.get("id") == session_id:
                return one
        return None
