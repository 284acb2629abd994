"""The ledger: every message that was published, what has to become of it, and where it was seen.

A million messages fit: one byte or eight for each fact, in arrays indexed by the message's number.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import Counter, deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tests.chaos.messages import DIGEST_BYTES, Kind, Sample, as_sent, digest_of, event_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_EXAMPLES = 10
_ENTRIES = 200
"""Seconds of which it is known what was entered."""


class Findings:
    """What is wrong, by invariant: how often, and some examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, invariant: str, example: str) -> None:
        """Note one violation."""
        self.counts[invariant] += 1
        examples = self.examples.setdefault(invariant, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)


class Shaken(IntEnum):
    """What a fault that takes exchanges or queues away may do to a message that was under way."""

    NOT = 0
    STORED = 1
    """A live one may be stored: its exchange was gone or not bound."""
    LOST = 2
    """It may be gone, with the queue it was in."""


class Ledger:
    """Knows what was published under which number, and what was seen of it."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.kinds = bytearray()
        self.attempts = bytearray()
        """How often each message was handed to the broker: more than once when the harness itself repeated it."""
        self.confirmed = bytearray()
        self.live = bytearray()
        """How often each was seen by a subscriber."""
        self.shaken = bytearray()
        """For each, a `Shaken`."""
        self._digests = bytearray()
        self.places: list[str | None] = []
        self.keys: list[str | None] = []
        """The key whose order each message has a place in, if it has one."""
        self.entered_at = array("d")
        """When (epoch seconds) each was entered; their numbers are the order."""
        self.arrived_at = array("d")
        """When each was first seen by a subscriber; 0: never."""
        self.arrivals = array("L")
        """As how manieth; 0: never."""
        self._arrived = 0
        self.shaking = Shaken.NOT
        """What happens to messages that are entered now."""
        self._entered: deque[tuple[float, int]] = deque(maxlen=_ENTRIES)
        self.codes: dict[int, str] = {}
        self.by_digest: dict[bytes, int] = {}
        """Those that no id in their bytes leads to, by digest."""
        self.trapped = 0
        """How many publishes carried a CC header to the trap."""
        self.findings = Findings()
        """What is wrong with single events; the rest is found at the end."""

    def __len__(self) -> int:
        return len(self.kinds)

    def expect(self, sample: Sample) -> None:
        """Enter a message before it is published, in the order of their numbers.

        A repetition of one that has not arrived takes its place in the order: stored, it may arrive as repeated.
        """
        if sample.number < len(self.kinds):
            if not self.live[sample.number]:
                self.keys[sample.number] = None
            return
        assert sample.number == len(self.kinds)
        self.kinds.append(sample.kind)
        self._digests += sample.digest
        self.places.append(sample.place)
        self.keys.append(sample.key)
        self.entered_at.append(time.time())
        self.arrived_at.append(0.0)
        self.arrivals.append(0)
        for facts in (self.attempts, self.confirmed, self.live):
            facts.append(0)
        self.shaken.append(self.shaking)
        self._note_time(sample.number)
        if sample.kind >= Kind.INVALID:
            self.codes[sample.number] = sample.code
        if sample.kind >= Kind.VARIANT:
            self.by_digest[sample.digest] = sample.number

    def handed_over(self, sample: Sample) -> None:
        """Note that the broker may have the message now."""
        _increment(self.attempts, sample.number)
        self.trapped += "CC" in sample.headers and not sample.exchange

    def refused(self, sample: Sample) -> None:
        """Note that the broker said it does not have the message; it enters later, out of its order."""
        self.attempts[sample.number] -= 1
        self.keys[sample.number] = None

    def lost_their_place(self, samples: Iterable[Sample]) -> None:
        """Note that nobody knows which of *samples* the broker has, and so in which order they are there."""
        for sample in samples:
            self.keys[sample.number] = None

    def kind(self, number: int) -> Kind:
        """Return what has to become of a message."""
        return Kind(self.kinds[number])

    def digest(self, number: int) -> bytes:
        """Return the digest of its body."""
        return bytes(self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES])

    def number_of(self, message_id: object) -> int | None:
        """Return the number in a message id of this run, or None."""
        run, _, number = str(message_id).rpartition("-")
        return int(number) if run == self.run and number.isdecimal() and int(number) < len(self.kinds) else None

    def number_of_message(self, message: dict[str, Any], body: bytes) -> int | None:
        """Return the number of a message by its canonical *body*, or else by its id."""
        number = self.by_digest.get(digest_of(body))
        return self.number_of(message.get("id")) if number is None else number

    def since(self, seconds: float) -> Iterable[int]:
        """Return the numbers that were entered in the last *seconds*, and those of which not all has been seen.

        A repetition may still be in a queue when the message itself has long arrived.
        """
        recent = time.monotonic() - seconds
        first = next((number for at, number in self._entered if at >= recent), len(self))
        return (n for n in range(len(self)) if n >= first or self.live[n] < max(1, self.attempts[n]))

    def shake(self, numbers: Iterable[int], how: Shaken) -> None:
        """Note that a fault took exchanges or queues away that held *numbers*."""
        for number in numbers:
            self.shaken[number] = max(self.shaken[number], how)

    def published(self) -> Iterator[int]:
        """Yield the numbers of all messages the broker confirmed."""
        return (number for number, confirmed in enumerate(self.confirmed) if confirmed)

    def seen_at_subscriber(self, written: bytes, properties: Any, *, seen_before: bool) -> None:
        """Check one event a subscriber received, and count it.

        *seen_before*: the subscriber's own broker session ended before its acknowledgement, so the event may come twice
        without anybody's fault.
        """
        event = json.loads(written)
        body = as_sent(event["data"], event["conversationId"])
        number = self.number_of_message(event["data"], body)
        if number is None:
            self.findings.add("an event nobody published", f"{event.get('id')} of {event['data'].get('id')}")
            return
        if not self.live[number]:
            self._arrived += 1
            self.arrivals[number], self.arrived_at[number] = self._arrived, time.time()
        if not (seen_before and self.live[number]):
            _increment(self.live, number)
        self._compare(number, event, body, properties)

    def _note_time(self, number: int) -> None:
        now = time.monotonic()
        if not self._entered or now > self._entered[-1][0] + 1:
            self._entered.append((now, number))

    def _compare(self, number: int, event: dict[str, Any], body: bytes, properties: Any) -> None:
        wanted = event_id_of(event["data"], body)
        if event["id"] != wanted or properties.message_id != wanted:
            self.findings.add("another event id", f"{number}: {event['id']} / {properties.message_id}, not {wanted}")
        if digest_of(body) != self.digest(number):
            self.findings.add("another payload", f"{number} ({self.kind(number).name}) at a subscriber")
        if event["conversationId"] != self.places[number]:
            self.findings.add("another conversation", f"{number}: {event['conversationId']}, not {self.places[number]}")
        if properties.type != "THIRD_PARTY_ACTIVITY" or properties.delivery_mode != 2:
            self.findings.add("other properties", f"{number}: {properties.type}, mode {properties.delivery_mode}")


def _increment(facts: bytearray, number: int) -> None:
    facts[number] = min(facts[number] + 1, 255)
