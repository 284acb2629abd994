"""The messages of every run: realistic activities of exactly the wanted size, the same for all contenders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import cycle, islice
from typing import TYPE_CHECKING

from worker.cim.canonical import event_id, write_canonical
from worker.cli.demo.activities import Mix, Place, Sample, generate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZE_BYTES = 1024
_SHAPES = 400
"""How many different messages are made; further ones differ in id and conversation only."""
_ID = "00000000-0000-4000-8000-{:012x}"
_FILLER = "The customer asked to be called back about the second invoice. "


class Kind(StrEnum):
    """What has to become of a message."""

    LIVE = "live"
    STORED = "stored"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One message, ready to publish."""

    body: bytes
    kind: Kind
    message_id: str
    event_id: str


def places(word: str, count: int) -> list[Place]:
    """Return *count* conversations, each with one channel session and one customer."""
    names = [f"{word}-{number:08x}" for number in range(count)]
    return [Place(name, f"{name}-session", sha256(name.encode()).hexdigest()[:24]) for name in names]


def mixed(live: float, stored: float, invalid: float) -> list[Kind]:
    """Return a repeating order of 100 kinds with these shares (in percent), evenly spread."""
    shares = {Kind.LIVE: live, Kind.STORED: stored, Kind.INVALID: invalid}
    given = dict.fromkeys(shares, 0.0)
    order = []
    for number in range(1, 101):
        kind = max(shares, key=lambda one: shares[one] * number / 100 - given[one])
        given[kind] += 1
        order.append(kind)
    return order


def prepare(
    first: int,
    count: int,
    order: Sequence[Kind],
    *,
    live: Sequence[Place],
    closed: Sequence[Place],
    size: int = SIZE_BYTES,
) -> Iterator[Prepared]:
    """Yield *count* messages of *size* bytes, numbered from *first*; kinds follow *order*, again and again.

    Stored ones are half for closed conversations and half of customers alone; every other one names its conversation.
    """
    makers = {
        Kind.LIVE: cycle(_shapes(live, size)),
        Kind.STORED: cycle(_alternating(_shapes(closed, size), _shapes((), size))),
        Kind.INVALID: cycle(_spoiled(_shapes(live or closed, size))),
    }
    for number, kind in zip(range(first, first + count), cycle(order), strict=False):
        head, tail, sender_id = next(makers[kind])
        message_id = _ID.format(number)
        body = head + message_id.encode() + tail
        identity = event_id(sender_id, message_id, write_canonical(json.loads(body)))
        yield Prepared(body, kind, message_id, identity)


_Shape = tuple[bytes, bytes, str]


def _shapes(where: Sequence[Place], size: int) -> list[_Shape]:
    mix = Mix(
        live=1 if where else 0,
        closed=0,
        unknown=0,
        stand_alone=0 if where else 1,
        invalid=0,
        duplicate=0,
        repeated_live=0,
        corrected=0,
    )
    count = max(_SHAPES, len(where))
    samples = generate(3, count, live=where, closed=(), mix=mix)
    return [
        _shape(sample, place, size)
        for sample, place in zip(samples, islice(cycle(where or (None,)), count), strict=True)
    ]


def _shape(sample: Sample, place: Place | None, size: int) -> _Shape:
    message = json.loads(sample.body)
    message["id"] = _ID.format(0)
    if place is not None:
        message["header"] |= {"conversationId": place.conversation_id, "channelSessionId": place.session_id}
    message["body"]["comment"] = ""
    missing = size - len(_bytes(message))
    message["body"]["comment"] = (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    head, found, tail = _bytes(message).partition(_ID.format(0).encode())
    assert found
    return head, tail, message["header"]["sender"]["id"]


def _spoiled(shapes: Sequence[_Shape]) -> list[_Shape]:
    """Take the sender's type away: the most common mistake, found by the contract and not by the JSON parser."""
    return [(head, tail.replace(b'"type":"', b'"kind":"', 1), sender) for head, tail, sender in shapes]


def _alternating(some: Sequence[_Shape], others: Sequence[_Shape]) -> list[_Shape]:
    return [shape for pair in zip(some, others, strict=False) for shape in pair]


def _bytes(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
