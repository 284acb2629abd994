"""Conversation lifecycle events: what the platform says about its conversations, read and merged. No I/O.

Events arrive twice and out of order, so a conversation is kept as separate facts (state, customer, room, each
channel session), each with the time it was last heard of, and a fact only ever gives way to a newer one. Any order
of the same events leads to the same record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import to_json

from worker.cim.decode import Undecodable, decode
from worker.cim.ids import has_control_character, is_too_long
from worker.cim.message import MAX_PROBLEMS, Rejected
from worker.cim.pointer import pointer
from worker.cim.problems import text_at
from worker.cim.timestamps import moment
from worker.codes import Code, Problem
from worker.conversations.conversation import (
    UNHEARD_OF,
    UNKNOWN_STATE,
    ConversationRecord,
    ConversationState,
    Fact,
    SessionFact,
    is_active,
    session_ended,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_LIFECYCLE_BYTES = 8 * 1_048_576
"""A conversation carries all its participants and sessions, so it may be larger than a message."""

STATE_EVENTS = frozenset({"TOPIC_STATE_CHANGE_EVENT", "TOPIC_STATE_CHANGED"})
SESSION_STARTED = "CHANNEL_SESSION_STARTED"
SESSION_OVER_EVENTS = frozenset({"CHANNEL_SESSION_ENDED", "CHANNEL_SESSION_EXPIRED"})
CUSTOMER_EVENT = "ASSOCIATED_CUSTOMER_CHANGED"

ID_PATHS = (
    ("conversationId",),
    ("data", "id"),
    ("data", "_id"),
    ("data", "conversationId"),
    ("data", "customerId"),
    ("data", "customer", "_id"),
    ("data", "customer", "id"),
    ("data", "roomInfo", "id"),
    ("data", "channelSession", "id"),
)
"""Where an event names conversation, customer, room or session; beside the sessions among its participants."""
_INVALID = Code.INVALID_ID

JsonObject = dict[str, Any]
F = TypeVar("F", bound=Fact[Any])


@dataclass(frozen=True, slots=True)
class LifecycleChange:
    """What one lifecycle event says about one conversation; None: it says nothing about that."""

    conversation_id: str
    name: str
    """The event's name, for logs."""
    at: int
    """Epoch milliseconds."""
    state: Fact[str] | None = None
    customer_id: Fact[str] | None = None
    room_info: Fact[JsonObject] | None = None
    sessions: tuple[SessionFact, ...] = ()
    received_at: int = 0
    """Epoch milliseconds of its receipt; 0: nobody received it, a command says so."""
    told_ahead: int = 0
    """The event's own time, in epoch ms, when that was still in the future; `at` is then the time of its receipt."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that says nothing about which conversations exist."""

    name: str


def parse_lifecycle(body: bytes, *, received_at: int) -> LifecycleChange | Ignored | Rejected:
    """Return what the CIM event in `body` says about a conversation, Ignored when nothing, Rejected when unreadable.

    `received_at` (epoch ms) is the time of an event that carries none, or one of the future: clocks of other services
    are wrong by hours, and one such event would win over everything until then. Raises nothing, whatever the bytes.
    """
    decoded = decode(body, max_bytes=MAX_LIFECYCLE_BYTES)
    if isinstance(decoded, Undecodable):
        return Rejected(decoded.problems[:MAX_PROBLEMS])
    document = decoded.document
    name = text_at(document, ("name",))
    if name is None:
        return _rejected(Code.MISSING_FIELD, ("name",), "The name of the event.")
    read = _READERS.get(name.upper())
    if read is None:
        return Ignored(name)
    told_at = _event_time(document, received_at)
    if told_at is None:
        return _rejected(Code.INVALID_TIMESTAMP, ("timestamp",), Code.INVALID_TIMESTAMP.spec.meaning)
    data = document.get("data")
    if not isinstance(data, dict):
        code = Code.MISSING_FIELD if data is None else Code.WRONG_TYPE
        return _rejected(code, ("data",), "An object: what the event is about.")
    change = _usable(read(document, data, name.upper(), min(told_at, received_at)), document, data)
    if isinstance(change, LifecycleChange):
        change = replace(change, received_at=received_at, told_ahead=told_at if told_at > received_at else 0)
    return change


def merge(record: ConversationRecord | None, change: LifecycleChange) -> ConversationRecord | None:
    """Return the record with what is newer in `change`, or None when nothing is: then there is nothing to write.

    Does not depend on the order of changes: twice and out of order is harmless. Of two changes of the same
    millisecond the later state of a conversation's life wins, and for a session the ended one.
    """
    before = record or _blank(change.conversation_id)
    state, state_after = _newer_state(before, change)
    after = replace(
        before,
        state=state,
        state_after=state_after,
        customer_id=_newer(before.customer_id, change.customer_id, _text_rank),
        room_info=_newer(before.room_info, change.room_info, _object_rank),
        sessions=_merge_sessions(before.sessions, change.sessions),
        told_ahead=max(before.told_ahead, change.told_ahead if change.state else 0),
        has_exchange=before.has_exchange or before.wants_exchange or _opens(change),
    )
    return None if after == record else replace(after, heard_at=max(before.heard_at, change.received_at))


def _newer_state(before: ConversationRecord, change: LifecycleChange) -> tuple[Fact[str], int]:
    """Return the state after *change*, and after which time it became so when its own time cannot be believed."""
    unchanged = before.state, before.state_after
    if change.state is None or 0 < change.told_ahead <= before.told_ahead:
        return unchanged
    if change.told_ahead:
        state = _newer(before.state, change.state, _state_rank)
        return unchanged if state is before.state else (state, before.state_after or max(before.state.at, 1))
    if before.state_after and change.state.at > before.state_after:
        # The clock of the event before is ahead, so its time is that of its receipt, for which it may have waited as
        # this one did: what comes after it was told after it.
        return change.state, 0
    state = _newer(before.state, change.state, _state_rank)
    return unchanged if state is before.state else (state, 0)


def _opens(change: LifecycleChange) -> bool:
    return change.state is not None and is_active(change.state.value)


def _blank(conversation_id: str) -> ConversationRecord:
    nothing: Fact[None] = Fact(None, UNHEARD_OF)
    return ConversationRecord(conversation_id, Fact(UNKNOWN_STATE, UNHEARD_OF), nothing, nothing, ())


def _newer(old: F, new: F | None, rank: Callable[[Any], Any]) -> F:
    if new is None or new.at < old.at:
        return old
    if new.at > old.at or rank(new.value) > rank(old.value):
        return new
    return old


def _merge_sessions(old: Iterable[SessionFact], new: Iterable[SessionFact]) -> tuple[SessionFact, ...]:
    sessions = {fact.id: fact for fact in old}
    for fact in new:
        known = sessions.get(fact.id)
        sessions[fact.id] = fact if known is None else _merge_session(known, fact)
    return tuple(sorted(sessions.values(), key=lambda fact: (fact.at, fact.id)))


def _merge_session(old: SessionFact, new: SessionFact) -> SessionFact:
    seen = [at for at in (old.first_seen_at, new.first_seen_at) if at]
    return replace(
        _newer(old, new, _session_rank),
        started_at=max(old.started_at, new.started_at),
        first_seen_at=min(seen, default=UNHEARD_OF),
    )


_STATE_RANKS = {str(state): rank for rank, state in enumerate(ConversationState, start=1)}


def _state_rank(state: str) -> tuple[int, str]:
    # UNKNOWN is below every state that somebody named.
    return (-1 if state == UNKNOWN_STATE else _STATE_RANKS.get(state, 0), state)


def _text_rank(text: str | None) -> str:
    return text or ""


def _object_rank(value: JsonObject | None) -> bytes:
    return b"" if value is None else to_json(value, fallback=str)


def _session_rank(session: JsonObject) -> tuple[bool, bytes]:
    return (session_ended(session), to_json(session, fallback=str))


def _event_time(document: JsonObject, received_at: int) -> int | None:
    timestamp = document.get("timestamp", document.get("timeStamp"))
    at = moment(timestamp, received_at)
    return None if at is None else max(at, UNHEARD_OF + 1)


def _read_state(document: JsonObject, data: JsonObject, name: str, at: int) -> LifecycleChange | Rejected:
    conversation_id = text_at(data, ("id",)) or text_at(document, ("conversationId",))
    state = text_at(data, ("state",))
    if conversation_id is None:
        return _rejected(Code.MISSING_FIELD, ("data", "id"), "The id of the conversation.")
    if state is None:
        return _rejected(Code.MISSING_FIELD, ("data", "state"), "The state of the conversation.")
    return LifecycleChange(
        conversation_id,
        name,
        at,
        state=Fact(state, at),
        customer_id=_fact(text_at(data, ("customer", "_id")), at),
        room_info=_room(data, at),
        sessions=tuple(
            SessionFact(session, at, first_seen_at=at if is_active(state) else UNHEARD_OF)
            for session in _sessions_of(data)
        ),
    )


def _read_session(document: JsonObject, data: JsonObject, name: str, at: int) -> LifecycleChange | Rejected:
    conversation_id = text_at(data, ("conversationId",)) or text_at(document, ("conversationId",))
    if conversation_id is None:
        return _rejected(Code.MISSING_FIELD, ("data", "conversationId"), "The id of the session's conversation.")
    if text_at(data, ("id",)) is None:
        return _rejected(Code.MISSING_FIELD, ("data", "id"), "The id of the channel session.")
    # A session's own copy of customer and room may be old news; what is said of the conversation itself goes before.
    return LifecycleChange(
        conversation_id,
        name,
        at,
        state=Fact(str(ConversationState.CREATED), UNHEARD_OF) if name == SESSION_STARTED else None,
        customer_id=_fact(text_at(data, ("customer", "_id")), UNHEARD_OF),
        room_info=_room(data, UNHEARD_OF),
        sessions=(SessionFact(data, at, started_at=at) if name == SESSION_STARTED else SessionFact(_ended(data), at),),
    )


def _read_customer(document: JsonObject, data: JsonObject, name: str, at: int) -> LifecycleChange | Rejected:
    # Underdocumented: a conversation, {conversationId, customer}, or the customer under the envelope's conversation.
    conversation_id = (
        text_at(data, ("conversationId",)) or text_at(document, ("conversationId",)) or text_at(data, ("id",))
    )
    paths = (("customer", "_id"), ("customer", "id"), ("_id",), ("customerId",))
    customer_id = next(filter(None, (text_at(data, path) for path in paths)), None)
    if conversation_id is None:
        return _rejected(Code.MISSING_FIELD, ("conversationId",), "The id of the conversation.")
    if customer_id is None:
        return _rejected(Code.MISSING_FIELD, ("data", "customer", "_id"), "The id of the customer.")
    return LifecycleChange(conversation_id, name, at, customer_id=Fact(customer_id, at))


_READERS: dict[str, Callable[[JsonObject, JsonObject, str, int], LifecycleChange | Rejected]] = {
    **dict.fromkeys(STATE_EVENTS, _read_state),
    **dict.fromkeys((SESSION_STARTED, *SESSION_OVER_EVENTS), _read_session),
    CUSTOMER_EVENT: _read_customer,
}


def _sessions_of(conversation: JsonObject) -> list[JsonObject]:
    candidates = [conversation.get("channelSession"), *_participants(conversation)]
    named = {text_at(one, ("id",)): one for one in candidates if _is_session(one) or one is candidates[0]}
    return [session for session_id, session in named.items() if session_id is not None and session is not None]


def _participants(conversation: JsonObject) -> list[Any]:
    """Return what stands in each place of the list; None where it is no object."""
    listed = conversation.get("participants")
    participants = listed if isinstance(listed, list) else []
    return [one.get("participant") if isinstance(one, dict) else None for one in participants]


def _is_session(participant: object) -> bool:
    return isinstance(participant, dict) and participant.get("participantType") == "ChannelSession"


def _ended(session: JsonObject) -> JsonObject:
    # The event's name says it is over; a copy that still says STARTED would be taken for the live session.
    if session_ended(session):
        return session
    state = session.get("state")
    return {**session, "state": {**(state if isinstance(state, dict) else {}), "name": "ENDED"}}


def _room(data: JsonObject, at: int) -> Fact[JsonObject] | None:
    room = data.get("roomInfo")
    return Fact(room, at) if isinstance(room, dict) else None


def _fact(value: str | None, at: int) -> Fact[str] | None:
    return None if value is None else Fact(value, at)


def _usable(change: LifecycleChange | Rejected, document: JsonObject, data: JsonObject) -> LifecycleChange | Rejected:
    if isinstance(change, Rejected):
        return change
    invalid = [Problem(_INVALID, pointer(path), _INVALID.spec.meaning) for path in _with_control_characters(document)]
    if invalid:
        return Rejected(tuple(invalid[:MAX_PROBLEMS]))
    if is_too_long(change.conversation_id):
        paths = (("data", "id"), ("data", "conversationId"))
        place = next((path for path in paths if data.get(path[1]) == change.conversation_id), ("conversationId",))
        return _rejected(Code.ID_TOO_LONG, place, Code.ID_TOO_LONG.spec.meaning)
    return change


def _with_control_characters(document: JsonObject) -> Iterator[tuple[str, ...]]:
    """Yield where an id has one, also where the event's kind does not read it: no id is told apart by it safely."""
    yield from (path for path in ID_PATHS if has_control_character(text_at(document, path) or ""))
    for place, participant in enumerate(_participants(document["data"])):
        if _is_session(participant) and has_control_character(text_at(participant, ("id",)) or ""):
            yield ("data", "participants", str(place), "participant", "id")


def _rejected(code: Code, path: tuple[str, ...], expected: str) -> Rejected:
    return Rejected((Problem(code, pointer(path), expected),))
