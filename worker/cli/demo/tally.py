"""Compares what was sent with what arrived at subscribers, in the store and in dead letters. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.cim import CimMessage, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cli.demo.activities import Sample


@dataclass(frozen=True, slots=True)
class Event:
    """An event as one subscriber received it."""

    conversation_id: str
    event_id: str
    properties: dict[str, Any]
    body: bytes


@dataclass(slots=True)
class Found:
    """What the demo saw, each from the place where it ended."""

    confirmed: int = 0
    """Publishes to ingress that the broker confirmed."""
    events: list[Event] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    """Event ids of the documents in the store."""
    letters: list[tuple[str, bytes]] = field(default_factory=list)
    """Code and body of each dead letter."""
    left_behind: dict[str, int] = field(default_factory=dict)
    """Queues that were not empty at the end."""
    duplicates: int = 0
    """As the workers counted them: a duplicate leaves no trace anywhere else."""
    exit_status: int = -1
    """Of `cim-worker run`."""
    seconds: float = 0.0
    sample_document: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the result: what had to be and what was."""

    name: str
    expected: int
    found: int

    @property
    def matches(self) -> bool:
        """Whether they are equal."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class Result:
    """The comparison."""

    lines: tuple[Line, ...]
    complaints: tuple[str, ...]
    """What is wrong, in sentences; empty when every message is accounted for."""

    @property
    def adds_up(self) -> bool:
        """Whether everything is where it has to be."""
        return not self.complaints


def tally(samples: Sequence[Sample], found: Found) -> Result:
    """Return how *found* compares with what had to become of *samples*, by number and by identity."""
    lines = _lines(samples, found)
    complaints = [f"{line.name}: expected {line.expected}, found {line.found}" for line in lines if not line.matches]
    return Result(tuple(lines), (*complaints, *_identity_complaints(samples, found), *_end_complaints(found)))


def _lines(samples: Sequence[Sample], found: Found) -> list[Line]:
    outcomes = Counter(sample.outcome for sample in samples)
    codes = Counter(sample.code for sample in samples if sample.code)
    letters = Counter(code for code, _ in found.letters)
    settled = len(found.events) + len(found.stored) + found.duplicates + len(found.letters)
    return [
        Line("sent", len(samples), found.confirmed),
        Line("published", outcomes["published"], len(found.events)),
        Line("stored", outcomes["stored"], len(found.stored)),
        Line("duplicate", outcomes["duplicate"], found.duplicates),
        Line("dead", outcomes["dead"], len(found.letters)),
        Line("sum of the four", len(samples), settled),
        *(Line(f"dead: {code}", codes[code], letters[code]) for code in sorted(codes | letters)),
    ]


def _identity_complaints(samples: Sequence[Sample], found: Found) -> list[str]:
    published = Counter((s.conversation_id, _id(s)) for s in samples if s.outcome == "published")
    stored = Counter(_id(sample) for sample in samples if sample.outcome == "stored")
    dead = Counter(sample.body for sample in samples if sample.outcome == "dead")
    received = Counter((event.conversation_id, event.event_id) for event in found.events)
    letters = Counter(body for _, body in found.letters)
    pairs = (
        ("subscribers received other events than were sent to them", published, received),
        ("the store holds other events than were sent to it", stored, Counter(found.stored)),
        ("dead letters hold other bytes than were sent", dead, letters),
    )
    return [text for text, expected, actual in pairs if expected != actual]


def _end_complaints(found: Found) -> list[str]:
    complaints = [f"{count} messages left in {queue}" for queue, count in found.left_behind.items()]
    if found.exit_status != 0:
        complaints.append(f"cim-worker run ended with status {found.exit_status}")
    return complaints


def _id(sample: Sample) -> str:
    message = parse(sample.body, received_at=0)
    return message.event_id if isinstance(message, CimMessage) else "rejected"
