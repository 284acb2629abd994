"""A conversation: as the registry keeps it, in facts with their times, and what a message needs of it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Self, TypeVar

import orjson

from worker.cim.ids import MAX_ID_BYTES, is_valid_id
from worker.cim.timestamps import LAST_MS

T_co = TypeVar("T_co", covariant=True)
JsonObject = dict[str, Any]

UNHEARD_OF = 0
"""Time of a fact that was concluded, not told: whatever the platform says outright wins over it."""
UNKNOWN_STATE = "UNKNOWN"
"""State of a conversation of which only sessions or the customer were heard; counts as active, as unknown ones do."""


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


KNOWN_STATES = frozenset(map(str, ConversationState))
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
    def size(self) -> int:
        """Bytes of the room and the sessions."""
        return sum(len(one.json) for one in self.channel_sessions) + (len(self.room.json) if self.room else 0)

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


@dataclass(frozen=True, slots=True)
class Fact(Generic[T_co]):
    """Something known, and since when."""

    value: T_co
    at: int
    """Epoch milliseconds of the event that told it; `UNHEARD_OF` when concluded."""


@dataclass(frozen=True, slots=True)
class SessionFact(Fact[JsonObject]):
    """A channel session of a conversation: as last heard of, and since when it is there. 0: nobody said."""

    started_at: int = UNHEARD_OF
    """Epoch milliseconds of the last event that said it started."""
    first_seen_at: int = UNHEARD_OF
    """Epoch milliseconds of the first event that showed it in the conversation while that was active."""

    @property
    def id(self) -> str:
        """The id of the session."""
        session_id: str = self.value["id"]
        return session_id

    @property
    def since(self) -> int:
        """When it started in this conversation, as far as anybody said; its end, or the conversation's, is no claim."""
        return self.started_at or self.first_seen_at


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A document of the registry that is no conversation; it counts as unknown, and its neighbours are unaffected."""

    id: str
    """Its `_id` as text; a stranger's, so it may hold anything."""
    problem: str
    """What is wrong, in a few words; names fields and types, never values."""


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation as the registry keeps it: facts with their times."""

    id: str
    state: Fact[str]
    customer_id: Fact[str | None]
    room_info: Fact[JsonObject | None]
    sessions: tuple[SessionFact, ...]
    """Ordered by time, then id; ended ones are kept, because recordings arrive after the call."""
    told_ahead: int = 0
    """Latest time, in epoch ms, that an event about the state gave itself while it was still in the future; 0: none."""
    state_after: int = 0
    """When the state was told by an event of the future: the time of the state before it. It is true since some moment
    between that and its receipt, which is `state.at`. 0: the time of the state is what was told."""
    heard_at: int = 0
    """Receipt of the last event that changed it, in epoch ms; 0: none. Events may tell of times long ago."""
    has_exchange: bool = False
    """Whether an exchange may have been made for it and was not deleted yet."""

    @property
    def active(self) -> bool:
        """Whether activities go live: in every state but CLOSING and CLOSED."""
        return is_active(self.state.value)

    @property
    def updated_at(self) -> int:
        """Epoch milliseconds of the newest fact."""
        told = (self.state.at, self.customer_id.at, self.room_info.at)
        return max(*told, *(fact.at for fact in self.sessions))

    @property
    def wants_exchange(self) -> bool:
        """Whether its exchange has to exist: not while nobody has told its state yet."""
        return self.active and self.state.value != UNKNOWN_STATE

    def session(self, session_id: str) -> SessionFact | None:
        """Return what is known of a channel session here, or None."""
        return next((fact for fact in self.sessions if fact.id == session_id), None)

    def to_document(self) -> JsonObject:
        """Return the document of the `conversations` collection: strings, integers and flat arrays to query by."""
        rare = {
            "heardAt": self.heard_at,
            "toldAhead": self.told_ahead,
            "stateAfter": self.state_after,
            "exchange": int(self.has_exchange),
        }
        return {
            "_id": self.id,
            "state": self.state.value,
            "customerId": self.customer_id.value,
            "roomInfo": self.room_info.value,
            "channelSessions": [fact.value for fact in self.sessions],
            "channelSessionIds": [fact.id for fact in self.sessions],
            "updatedAt": self.updated_at,
            "stateUpdatedAt": self.state.at,
            "customerUpdatedAt": self.customer_id.at,
            "roomUpdatedAt": self.room_info.at,
            "channelSessionUpdatedAt": [fact.at for fact in self.sessions],
            "channelSessionStartedAt": [fact.started_at for fact in self.sessions],
            "channelSessionFirstSeenAt": [fact.first_seen_at for fact in self.sessions],
            **{name: value for name, value in rare.items() if value},
        }

    @classmethod
    def from_document(cls, document: JsonObject) -> ConversationRecord | UnreadableRecord:
        """Return the record in a `conversations` document, or why there is none in it. Raises nothing.

        Fields that are not there count as not told, times that are not there as `UNHEARD_OF`; a field of another type
        makes the whole document unreadable.
        """
        try:
            return _read_record(document)
        except _Unreadable as error:
            return UnreadableRecord(str(document.get("_id")), str(error))

    def to_conversation(self) -> Conversation:
        """Return what a message needs to know of this conversation."""
        return Conversation(
            self.id,
            self.state.value,
            self.customer_id.value,
            None if self.room_info.value is None else Room.of(self.room_info.value),
            tuple(ChannelSession.of(fact.value) for fact in self.sessions),
            self.updated_at,
        )


class _Unreadable(Exception):  # noqa: N818 - never leaves this file
    """A field of a registry document has another type than ours."""


def _read_record(document: JsonObject) -> ConversationRecord:
    state = _text(document, "state")
    _time(document, "revision")
    return ConversationRecord(
        _id(document),
        Fact(UNKNOWN_STATE if state is None else state, _time(document, "stateUpdatedAt")),
        Fact(_text(document, "customerId"), _time(document, "customerUpdatedAt")),
        Fact(_object_field(document.get("roomInfo"), "roomInfo"), _time(document, "roomUpdatedAt")),
        _session_facts(document),
        _time(document, "toldAhead"),
        _time(document, "stateAfter"),
        _time(document, "heardAt"),
        bool(_time(document, "exchange")),
    )


def _id(document: JsonObject) -> str:
    value = document.get("_id")
    if not isinstance(value, str):
        raise _wrong("_id", value, "a string")
    if not is_valid_id(value):
        msg = f"_id is blank, has a control character or is longer than {MAX_ID_BYTES} bytes"
        raise _Unreadable(msg)
    return value


def _text(document: JsonObject, name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value or None


def _time(document: JsonObject, name: str) -> int:
    return _whole_number(document.get(name), name)


def _whole_number(value: object, name: str) -> int:
    if type(value) is int and 0 <= value <= LAST_MS:  # as we write them: this runs a dozen times for each record
        return value
    # A shell writes every number as a double.
    if value is None:
        return UNHEARD_OF
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_MS or value % 1:
        raise _wrong(name, value, "a whole number from 0 up (times: epoch milliseconds)")
    return int(value)


def _sessions(document: JsonObject) -> list[JsonObject]:
    values = _list(document, "channelSessions")
    sessions = [session for value in values if (session := _object_field(value, "channelSessions"))]
    for session in sessions:
        if not isinstance(session.get("id"), str) or not session["id"].strip():
            raise _wrong("channelSessions.id", session.get("id"), "a string that is not blank")
    return sessions


def _session_facts(document: JsonObject) -> tuple[SessionFact, ...]:
    sessions = _sessions(document)
    names = ("channelSessionUpdatedAt", "channelSessionStartedAt", "channelSessionFirstSeenAt")
    columns = [_times(document, name, len(sessions)) for name in names]
    return tuple(map(SessionFact, sessions, *columns))


def _times(document: JsonObject, name: str, count: int) -> list[int]:
    times = [_whole_number(value, name) for value in _list(document, name)]
    return (times + [UNHEARD_OF] * count)[:count]


def _list(document: JsonObject, name: str) -> list[Any]:
    value = document.get(name)
    if value is not None and not isinstance(value, list):
        raise _wrong(name, value, "an array")
    return value or []


def _object_field(value: object, name: str) -> JsonObject | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object")
    try:
        orjson.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        msg = f"{name} cannot be written as JSON"
        raise _Unreadable(msg) from None
    return value


def _wrong(name: str, value: object, wanted: str) -> _Unreadable:
    return _Unreadable(f"{name} is of type {type(value).__name__}, must be {wanted}")


def _json(value: dict[str, Any]) -> bytes:
    # What JSON has no type for was put into the registry by hand; its conversation must not die of it.
    written = orjson.dumps(value, default=str)
    return bytes(memoryview(written))  # a copy: the writer gets its buffer much larger, and what it gives back is lost


def _object(json: bytes) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(json)
    return value
