"""What a body turns out to be: a valid CIM message, or the reasons why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from worker.codes import Problem

MAX_PROBLEMS = 20


class Identity(NamedTuple):
    """Whose message it is and what it is about, as far as could be read; for letters, logs and the journal."""

    sender_id: str | None = None
    sender_name: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None
    event_id: str | None = None
    body_type: str | None = None
    sent_at: int | None = None
    """When the publisher says it happened, in epoch milliseconds."""


NOBODY = Identity()


class CimMessage(NamedTuple):
    """A valid CIM message: what the worker needs to know of it, and what travels on."""

    id: str
    """The publisher's id, or 24 hex digits derived from the canonical content when it gave none."""
    event_id: str
    """24 hex digits: who sent it, under which id, with which content; see `canonical`."""
    sender_id: str
    sender_name: str | None
    conversation_id: str | None
    channel_session_id: str | None
    customer_id: str | None
    room_id: str | None
    body_type: str
    timestamp: int
    """When the publisher says it happened (else when it was received), in epoch milliseconds."""
    size: int
    """Bytes of its JSON as it was sent, unpacked."""
    parsed: dict[str, Any] | None
    """What `wire` returns; None where nothing but the quick check has read the message: it is parsed when asked for."""
    json: bytes | None = None
    """The JSON of `wire`, when the message was sent just so."""
    sender_json: bytes | None = None
    """The JSON of `sender`, with `json`."""
    intent: str | None = None
    """What the message is about, for `CIM_EVENT_NAMES`."""
    customer_gap: tuple[int, int] | None = None
    """Where in `json` a customer can be put, if it has none and the place is known; see `scan.Scanned`."""

    def json_with_customer(self, customer_id: str) -> bytes | None:
        """Return `json` with the customer it lacks, known by *customer_id*; None where it has to be written anew."""
        if self.json is None or self.customer_gap is None:
            return None
        start, end = self.customer_gap
        name = b"" if start < end else b',"customer":'
        return b'%b%b{"_id":%b}%b' % (self.json[:start], name, orjson.dumps(customer_id), self.json[end:])

    @property
    def wire(self) -> dict[str, Any]:
        """The message as sent, apart from the documented normalisations; the `data` of the event."""
        if self.parsed is not None:
            return self.parsed
        return orjson.loads(self.json or b"")  # type: ignore[no-any-return]

    @property
    def sender(self) -> dict[str, Any]:
        """Who sent it, with all that it says of itself; the `eventEmitter` of the event."""
        return self.wire["header"]["sender"]  # type: ignore[no-any-return]

    @property
    def identity(self) -> Identity:
        """Whose message it is and what it is about."""
        fields = (
            self.sender_id,
            self.sender_name,
            self.id,
            self.conversation_id,
            self.event_id,
            self.body_type,
            self.timestamp,
        )
        return tuple.__new__(Identity, fields)  # half the time of `Identity(…)`, as in other hot places


@dataclass(frozen=True, slots=True)
class Rejected:
    """A body that is no valid CIM message. Says why, and who sent it as far as that can be read."""

    problems: tuple[Problem, ...]
    """One to twenty: those of the bytes first, then those of the contract in its order."""
    identity: Identity = NOBODY

    @property
    def first(self) -> Problem:
        """The problem that names the rejection in headers, logs and metrics."""
        return self.problems[0]
