"""The traffic: messages of every kind from a seed, each with what has to become of it.

Valid bodies are written as canonical JSON (sorted keys, no spaces) and need no normalisation, so that one digest serves
for the bytes, for the event's `data` and for the stored document.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import random
    import time
    from collections.abc import Callable

VHOST: Final = "chaos"
KILL_MARK: Final = "chaos-kills-its-reader"
UNSTORABLE_MARK: Final = "chaos-cannot-be-stored"
DIGEST_BYTES: Final = 8
_DAY_MS: Final = 24 * 3600 * 1000
_SENDERS: Final = 5
_REMEMBERED: Final = 300
_REMEMBERED_BYTES: Final = 4096
_LARGEST_ENVELOPE: Final = 400
"""Bytes of a message beside its text, at most."""
_PARKED_BYTES: Final = 17 * 1024 * 1024
"""More than a MongoDB document holds."""


class Kind(IntEnum):
    """What has to become of a message; everything below INVALID is valid."""

    LIVE = 1
    """For a conversation nobody disturbs: at a subscriber, and not in the store."""
    SESSION_LIVE = 2
    """The same, named only by its channel session."""
    MOVING = 3
    """For one that closes, reopens, loses its exchange or its subscriber: at a subscriber or in the store."""
    CLOSED = 4
    """In the store."""
    SESSION_CLOSED = 5
    UNKNOWN = 6
    STAND_ALONE = 7
    NARROW = 8
    """For a conversation whose queue is full now and then: at a subscriber, or refused twice and in the store."""
    REFUSED = 9
    """For a conversation whose only queue is full for ever: refused twice, then in the store."""
    BULKY = 10
    """For a live conversation, just below the broker's limit for a while: at a subscriber, or in the store."""
    VARIANT = 11
    """Other content under the id of a stored message: another activity, in the store as well."""
    INVALID = 20
    """Dead with its code and the same bytes, like everything from here on."""
    UNSTORABLE = 22
    """The store fails for it, every time, with a number nobody listed: all attempts, then dead."""
    KILLER = 23
    """Kills its reader: the broker gives it up."""
    FOREIGN = 24
    """Put into the dead letters by a stranger."""
    PARKED = 25
    """Dead, and too large for a document."""


AT_SUBSCRIBER: Final = frozenset({Kind.LIVE, Kind.SESSION_LIVE})
IN_STORE: Final = frozenset(
    {Kind.CLOSED, Kind.SESSION_CLOSED, Kind.UNKNOWN, Kind.STAND_ALONE, Kind.REFUSED, Kind.VARIANT}
)
EITHER: Final = frozenset({Kind.MOVING, Kind.NARROW, Kind.BULKY})


@dataclass(frozen=True, slots=True)
class Places:
    """Conversation ids by what happens to them; the session of a conversation is `session-` and its id."""

    live: tuple[str, ...]
    moving: tuple[str, ...]
    closed: tuple[str, ...]
    narrow: tuple[str, ...]
    full: tuple[str, ...]
    calm: tuple[str, ...]
    """The one whose latency is measured."""
    quiet: tuple[str, ...] = ()
    """Each gets messages once, all while the store is away; only where order is asked for."""

    @classmethod
    def of(cls, run: str, *, live: int = 24, moving: int = 6, closed: int = 6, quiet: int = 0) -> Self:
        """Name them for one run."""

        def names(kind: str, count: int) -> tuple[str, ...]:
            return tuple(f"{kind}-{run}-{number}" for number in range(count))

        many = names("live", live), names("moving", moving), names("closed", closed)
        single = names("narrow", 1), names("full", 1), names("calm", 1)
        return cls(*many, *single, names("quiet", quiet))

    @property
    def to_open(self) -> tuple[str, ...]:
        """Those that are active at the start."""
        return (*self.live, *self.moving, *self.narrow, *self.full, *self.calm, *self.quiet)


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each sort of message comes, as weights."""

    live: float = 50
    session_live: float = 8
    moving: float = 12
    closed: float = 5
    session_closed: float = 3
    unknown: float = 6
    stand_alone: float = 6
    narrow: float = 2
    repeated: float = 3
    invalid: float = 4
    variant: float = 1
    refused: float = 0.5
    unstorable: float = 0.04
    foreign: float = 0.5
    oversized: float = 0.1


LONG_MIX: Final = Mix(
    live=900,
    session_live=12,
    moving=25,
    closed=12,
    session_closed=5,
    unknown=8,
    stand_alone=8,
    narrow=2,
    repeated=10,
    invalid=10,
    variant=3,
    refused=0.5,
    unstorable=0.05,
    foreign=0.5,
    oversized=0.02,
)
"""A million messages in half an hour: mostly live traffic, because the embedded store is slower than the broker."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One message to publish. A repetition has the number of its original."""

    number: int
    kind: Kind
    body: bytes
    digest: bytes
    routing_key: str
    exchange: str = ""
    code: str = ""
    """The reason code of one that has to die."""
    headers: dict[str, Any] = field(default_factory=dict)
    place: str | None = None
    """Its conversation, where it names one or its session does."""
    key: str | None = None
    """The key whose order it has a place in, where order is asked for."""


def digest_of(body: bytes) -> bytes:
    """Return the short digest by which the ledger knows a body."""
    return sha256(body).digest()[:DIGEST_BYTES]


def canonical(document: object) -> bytes:
    """Return the canonical bytes of a JSON document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def customer_of(place: str) -> dict[str, str]:
    """Return the customer that the registry knows of a conversation."""
    return {"_id": f"customer-of-{place}"}


def as_sent(data: dict[str, Any], place: str | None) -> bytes:
    """Return the bytes of the message in an event's `data`, without the customer that the registry added."""
    header = dict(data["header"])
    if place is not None and header.get("customer") == customer_of(place):
        del header["customer"]
    return canonical({**data, "header": header})


def sender_of(number: int) -> str:
    """Return the sender id of message *number*."""
    return f"chaos-app-{number % _SENDERS}"


def event_id_of(message: dict[str, Any], body: bytes) -> str:
    """Return the event id the contract promises for *message*; computed here on purpose, not by the worker.

    *body*: its canonical bytes.
    """
    sender, own = message["header"]["sender"]["id"], message["id"]
    return sha256(f"{sender}\0{own}\0".encode() + body).hexdigest()[:24]


class MillisecondTimestamp(datetime):
    """A header timestamp in milliseconds, as careless publishers send it: pika's encoder writes what this says."""

    milliseconds = 1_760_000_000_123

    def utctimetuple(self) -> time.struct_time:
        """Return a time of day so late that pika's seconds since 1970 come out as our milliseconds."""
        return (1970, 1, 1, 0, 0, self.milliseconds, 0, 1, 0)  # type: ignore[return-value]


class Traffic:
    """Makes messages, one at a time. The same arguments always give the same messages."""

    def __init__(
        self, rng: random.Random, run: str, places: Places, mix: Mix, *, now_ms: int, in_order: bool = False
    ) -> None:
        """*in_order*: what may arrive at a subscriber has a place in the order of its conversation."""
        self._in_order = in_order
        self._rng = rng
        self._run = run
        self._places = places
        self._now_ms = now_ms
        self._next = 0
        self._recent: deque[Sample] = deque(maxlen=_REMEMBERED)
        self._stored: deque[Sample] = deque(maxlen=_REMEMBERED)
        sorts: dict[str, Callable[[], Sample | None]] = {
            "live": lambda: self._conversation(Kind.LIVE, places.live),
            "session_live": lambda: self._session(Kind.SESSION_LIVE, places.live),
            "moving": lambda: self._conversation(Kind.MOVING, places.moving),
            "closed": lambda: self._conversation(Kind.CLOSED, places.closed),
            "session_closed": lambda: self._session(Kind.SESSION_CLOSED, places.closed),
            "unknown": self._unknown,
            "stand_alone": self.stand_alone,
            "narrow": self.narrow,
            "repeated": self._repeated,
            "invalid": self.invalid,
            "variant": self._variant,
            "refused": lambda: self._conversation(Kind.REFUSED, places.full),
            "unstorable": self._unstorable,
            "foreign": self._foreign,
            "oversized": lambda: self._blob(Kind.INVALID, 1_100_000),
        }
        self._sorts = list(sorts.values())
        self._weights = [getattr(mix, name) for name in sorts]

    @property
    def count(self) -> int:
        """How many different messages were made."""
        return self._next

    def next(self) -> Sample:
        """Return the next message; now and then an earlier one again."""
        while True:
            sample = self._rng.choices(self._sorts, self._weights)[0]()
            if sample is not None:
                return sample

    def killer(self) -> Sample:
        """Return a message that kills its reader."""
        return self._finish(Kind.KILLER, {"conversationId": self._places.live[0]}, KILL_MARK, code="delivery_limit")

    def stand_alone(self) -> Sample:
        """Return a message that is always stored."""
        return self._finish(Kind.STAND_ALONE, {"customer": {"_id": f"customer-{self._next}"}})

    def narrow(self) -> Sample:
        """Return a message for the subscriber whose queue is full now and then."""
        return self._conversation(Kind.NARROW, self._places.narrow)

    def large(self, size: int) -> Sample:
        """Return a live message of *size* bytes and a little more."""
        return self._finish_at(Kind.LIVE, self._rng.choice(self._places.live), "x" * size)

    def almost(self, limit: int) -> Sample:
        """Return a live message just below *limit* bytes, whose event is larger."""
        return self._finish_at(Kind.BULKY, self._rng.choice(self._places.live), "x" * (limit - _LARGEST_ENVELOPE))

    def long_reasons(self) -> Sample:
        """Return a message that is invalid for a reason with a long name, in letters that take many bytes."""
        number = self._number()
        key = canonical("☎" * 2000)
        body = b"{%b:1,%b:2,%b" % (key, key, canonical(self._message(number, {}, "spoiled"))[1:])
        return Sample(number, Kind.INVALID, body, digest_of(body), "cim.ingress", code="duplicate_key")

    def unreadable(self, event: bytes) -> Sample:
        """Return a conversation event whose registry record nobody can read."""
        exchange, code = "cim.conversation-events", "unreadable_record"
        return Sample(self._number(), Kind.INVALID, event, digest_of(event), "TOPIC_STATE_CHANGE_EVENT", exchange, code)

    def written_again(self, count: int) -> list[Sample]:
        """Return recent messages again, the same to a reader of JSON, other bytes to everybody else."""
        recent = [sample for sample in self._recent if sample.kind is not Kind.VARIANT]
        return [replace(sample, body=_other_bytes(sample.body)) for sample in recent[-count:]]

    def parked(self) -> Sample:
        """Return a message that no document can hold."""
        return self._blob(Kind.PARKED, _PARKED_BYTES)

    def _conversation(self, kind: Kind, places: tuple[str, ...]) -> Sample:
        number = self._rng.randrange(len(places))
        place = places[number]
        if not self._in_order or kind not in AT_SUBSCRIBER | EITHER:
            return self._finish(kind, {"conversationId": place}, place=place)
        # Of one conversation all come the same way: some by the queue's name, the others through the exchange.
        by_name = number % _BY_QUEUE_IN_ORDER == 1
        way = ("", "cim.ingress", place) if by_name else ("cim.ingress", place, place)
        return self._finish(kind, {"conversationId": place}, place=place, way=way)

    def by_session(self, place: str) -> Sample:
        """Return a message that names only the session of *place*, in the order of its key."""
        session = f"session-{place}"
        way = ("cim.ingress", session, session)
        return self._finish(Kind.SESSION_LIVE, {"channelSessionId": session}, place=place, way=way)

    def behind(self, sample: Sample) -> Sample:
        """Return a live message that enters by the key of *sample*, and has no place in an order itself."""
        place = self._places.live[0]
        way = (sample.exchange, sample.routing_key, None)
        return self._finish(Kind.LIVE, {"conversationId": place}, place=place, way=way)

    def _session(self, kind: Kind, places: tuple[str, ...]) -> Sample:
        place = self._rng.choice(places)
        return self._finish(kind, {"channelSessionId": f"session-{place}"}, place=place)

    def _unknown(self) -> Sample:
        place = f"unknown-{self._run}-{self._next}"
        return self._finish(Kind.UNKNOWN, {"conversationId": place}, place=place)

    def _unstorable(self) -> Sample:
        anchor = {"customer": {"_id": f"customer-{self._next}"}}
        return self._finish(Kind.UNSTORABLE, anchor, UNSTORABLE_MARK, code="unexpected_error")

    def _repeated(self) -> Sample | None:
        return self._rng.choice(self._recent) if self._recent else None

    def _variant(self) -> Sample | None:
        if not self._stored:
            return None
        original = self._rng.choice(self._stored)
        message = json.loads(original.body)
        number = self._number()
        message["body"]["markdownText"] = f"other content under the same id {number}"
        body = canonical(message)
        key, exchange, place = original.routing_key, original.exchange, original.place
        return Sample(number, Kind.VARIANT, body, digest_of(body), key, exchange, place=place)

    def _foreign(self) -> Sample:
        number = self._number()
        body = b"a letter of a stranger %d" % number
        return Sample(number, Kind.FOREIGN, body, digest_of(body), "", "cim.dead-letters", code="foreign_letter")

    def _blob(self, kind: Kind, size: int) -> Sample:
        number = self._number()
        body = b'{"id":"%d","blob":"%b"}' % (number, b"x" * size)
        return Sample(number, kind, body, digest_of(body), "cim.ingress", code="message_too_large")

    def invalid(self) -> Sample:
        """Return a message that has to die, and carries other mischief now and then."""
        code, spoil = self._rng.choice(_SPOILED)
        number = self._number()
        body = spoil(self._message(number, {"conversationId": self._rng.choice(self._places.live)}, "spoiled"))
        headers = {"CC": [TRAP]} if self._rng.random() < _HOSTILE else {}
        return Sample(number, Kind.INVALID, body, digest_of(body), "cim.ingress", code=code, headers=headers)

    def _finish(
        self,
        kind: Kind,
        anchor: dict[str, Any],
        text: str = "",
        *,
        code: str = "",
        place: str | None = None,
        way: tuple[str, str, str | None] | None = None,
    ) -> Sample:
        """*way*: exchange, routing key, and the key whose order it has a place in, if it has one."""
        number = self._number()
        body = canonical(self._message(number, anchor, text or f"☎ {number}"))
        exchange, key = ("", "cim.ingress") if self._rng.random() < _BY_QUEUE else ("cim.ingress", f"chaos.{kind.name}")
        headers = self._rng.choice(_HOSTILE_HEADERS) if self._rng.random() < _HOSTILE else {}
        in_order = None
        if way is not None:
            exchange, key, in_order = way
            headers = {name: value for name, value in headers.items() if name != "CC"}  # would enter by two keys
        sample = Sample(number, kind, body, digest_of(body), key, exchange, code, headers, place=place, key=in_order)
        if kind < Kind.INVALID and len(body) < _REMEMBERED_BYTES:
            self._recent.append(sample)
        if kind in IN_STORE:
            self._stored.append(sample)
        return sample

    def _message(self, number: int, anchor: dict[str, Any], text: str) -> dict[str, Any]:
        # Some publishers' clocks are wrong by a day; nothing may depend on them.
        wrong_by = self._rng.choice((0, 0, 0, 0, -_DAY_MS, _DAY_MS))
        header = {
            "channelData": {"additionalAttributes": []},
            "sender": {"id": sender_of(number), "senderName": "Chaos", "type": "APP"},
            "timestamp": self._now_ms + number + wrong_by,
            **anchor,
        }
        return {"id": f"{self._run}-{number}", "header": header, "body": {"type": "CHAOS", "markdownText": text}}

    def _finish_at(self, kind: Kind, place: str, text: str) -> Sample:
        return self._finish(kind, {"conversationId": place}, text, place=place)

    def _number(self) -> int:
        self._next += 1
        return self._next - 1


TRAP: Final = "chaos.trap"
"""A queue that only a CC header routes to: a copy that carried the header along would show there."""
_HOSTILE: Final = 0.05
_BY_QUEUE: Final = 0.8
_BY_QUEUE_IN_ORDER: Final = 4
_HOSTILE_HEADERS: Final[tuple[dict[str, Any], ...]] = (
    {"when": MillisecondTimestamp(2025, 1, 1, tzinfo=UTC)},
    {"CC": [TRAP]},
    {"x-death": [{"reason": "rejected", "queue": "elsewhere", "count": 99, "exchange": "", "routing-keys": ["a"]}]},
    {"cim-attempt": "many", "cim-code": "store_rejected", "x-delivery-count": "none"},
)


def _spoil(**changes: object) -> Callable[[dict[str, Any]], bytes]:
    def spoiled(message: dict[str, Any]) -> bytes:
        message["header"].update(changes)
        return canonical(message)

    return spoiled


def _other_bytes(body: bytes) -> bytes:
    pairs = dict(reversed(json.loads(body).items()))
    return json.dumps(pairs, indent=1).encode()


def _nested(message: dict[str, Any]) -> bytes:
    return canonical(message)[:-1] + b',"deep":' + b"[" * 5000 + b"]" * 5000 + b"}"


def _without(name: str) -> Callable[[dict[str, Any]], bytes]:
    def spoiled(message: dict[str, Any]) -> bytes:
        del message[name]
        return canonical(message)

    return spoiled


_SPOILED: Final[tuple[tuple[str, Callable[[dict[str, Any]], bytes]], ...]] = (
    ("malformed_json", lambda message: canonical(message)[:-9]),
    ("not_an_object", lambda message: b"[" + canonical(message) + b"]"),
    ("invalid_utf8", lambda message: canonical(message).replace(b"spoiled", b"sp\xffiled")),
    ("invalid_unicode", lambda message: canonical(message).replace(b"spoiled", b"sp\\ud800iled")),
    ("duplicate_key", lambda message: b'{"id":"first",' + canonical(message)[1:]),
    ("number_not_finite", lambda message: canonical(message)[:-1] + b',"n":1e999}'),
    ("integer_out_of_range", lambda message: canonical(message)[:-1] + b',"n":' + b"9" * 5000 + b"}"),
    ("nesting_too_deep", _nested),
    ("missing_sender", _spoil(sender=None)),
    ("missing_sender_id", _spoil(sender={"type": "APP"})),
    ("missing_body", _without("body")),
    ("missing_anchor", _spoil(conversationId="")),
    ("invalid_timestamp", _spoil(timestamp="last Tuesday")),
    ("wrong_type", _spoil(stamps="none")),
)
