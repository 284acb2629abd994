"""How many bytes an outcome takes in the journal: `python -m tests.benchmarks.journal`. Needs no service.

The journal itself writes outcomes of the benchmark's messages (69 live, 30 stored, 1 invalid of a hundred), with random
ids, so many at a time, and the compressed bodies it publishes are measured. What the stream adds for each message,
properties and all, is some 200 bytes and not in it.
"""

from __future__ import annotations

import asyncio
import random
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tests.benchmarks.messages import Kind, mixed, places, prepare
from tests.support.deliveries import FakeClock, RecordingReporter, delivery
from tests.support.eventually import eventually_async
from tests.support.fakes import FakePublisher
from worker.cim import parse
from worker.flow.backoff import Backoff
from worker.flow.outage import Outage
from worker.outcome import Outcome
from worker.pipeline.journal import Gap, Journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim import Identity

_SIZES: Final = (1, 10, 50, 200)
_MESSAGES: Final = 2_000
_RANDOM: Final = random.Random(1)
OUTCOMES: Final[dict[Kind, tuple[Outcome, str | None, str | None]]] = {
    Kind.LIVE: (Outcome.PUBLISHED, None, None),
    Kind.STORED: (Outcome.STORED, "closed", None),
    Kind.INVALID: (Outcome.DEAD, None, "missing_sender_type"),
}


def main() -> int:
    """Print the table."""
    outcomes = [(identity(one.body), *OUTCOMES[one.kind]) for one in messages()]
    print("| outcomes in a message | bytes each |\n|--:|--:|")
    for size in _SIZES:
        print(f"| {size:,} | {asyncio.run(written(outcomes, size)) / len(outcomes):.0f} |")
    return 0


def messages(count: int = _MESSAGES) -> list[Any]:
    """Return the benchmark's messages."""
    return list(prepare(0, count, mixed(69, 30, 1), live=places("live", 100), closed=places("closed", 100)))


def identity(body: bytes) -> Identity:
    """Return whose message it is, as the worker reads it, but for an id such as clients make."""
    return parse(body, received_at=0).identity._replace(message_id=str(UUID(int=_RANDOM.getrandbits(128), version=4)))


async def written(outcomes: Sequence[tuple[Any, ...]], size: int) -> int:
    """Return how many bytes the journal publishes for *outcomes* that are settled *size* at a time."""
    publisher, clock, reporter = FakePublisher(), FakeClock(), RecordingReporter()

    async def opened() -> FakePublisher:
        return publisher

    journal = Journal(
        open_publisher=opened,
        is_connected=lambda: True,
        gap=Gap(),
        let_go=lambda _deliveries: (),
        worker="worker-7f9c6d-x2x4z.1",
        outage=Outage("journal", address="cim.outcomes", reporter=reporter, clock=clock),
        backoff=Backoff(1, 30, random=lambda: 1.0),
        clock=clock,
        reporter=reporter,
    )
    for start in range(0, len(outcomes), size):
        for who, outcome, reason, code in outcomes[start : start + size]:
            journal.note(delivery(), who, outcome, reason=reason, code=code)
        await eventually_async(partial(_has, publisher, start // size + 1))
    return sum(len(message.body) for message in publisher.taken)


def _has(publisher: FakePublisher, count: int) -> bool:
    return len(publisher.taken) >= count


if __name__ == "__main__":
    sys.exit(main())
