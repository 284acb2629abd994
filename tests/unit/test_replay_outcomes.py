"""The worker's side of a replay: its outcome goes to the letter, in the background and never in the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.deliveries import NOW, FakeClock, FakeDelivery, RecordingReporter, delivery
from tests.support.eventually import eventually_async
from worker.dead_letters.letter import Status
from worker.dead_letters.outcomes import ReplayOutcome, ReplayOutcomes
from worker.failure import Dependency, StoreUnavailable, store_silent
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence


class FakeLetters:
    def __init__(self) -> None:
        self.written: list[ReplayOutcome] = []
        self.failure: Exception | None = None

    async def write_outcomes(self, outcomes: Sequence[ReplayOutcome]) -> None:
        if self.failure is not None:
            raise self.failure
        self.written += outcomes


class Done(NamedTuple):
    """A delivery that came to an outcome."""

    delivery: FakeDelivery
    outcome: Outcome
    letter_id: str | None = None


class Bench:
    def __init__(self) -> None:
        clock = FakeClock()
        self.letters = FakeLetters()
        self.reported = RecordingReporter()
        outage = Outage("store", address="store:1", reporter=self.reported, clock=clock)
        backoff = Backoff(0.01, 0.01, random=lambda: 0.0)
        self.gate = Gate(Dependency.STORE, "replays", outage=outage, backoff=backoff, clock=clock)
        self.replays = ReplayOutcomes(self.letters, self.gate, clock, self.reported)

    async def run(self, until: Any) -> None:
        task = asyncio.create_task(self.replays.run())
        await eventually_async(until)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.gate.stop()


def replay(letter: str = "letter", job: str = "job") -> FakeDelivery:
    return delivery(b"{}", {"cim-replay-of": letter, "cim-replay-job": job})


async def test_the_last_word_about_a_replay_is_written_to_its_letter() -> None:
    bench = Bench()
    for outcome in (Outcome.RETRY, Outcome.WAITING, Outcome.HANDED_BACK):
        bench.replays.note(replay(), outcome, None)
    bench.replays.note(delivery(b"{}"), Outcome.STORED, None)
    bench.replays.settled(Done(replay("one"), Outcome.PUBLISHED))
    bench.replays.settled(Done(delivery(b"{}"), Outcome.PUBLISHED))
    bench.replays.note(replay("two"), Outcome.DEAD, "successor")

    await bench.run(lambda: len(bench.letters.written) == 2)

    assert bench.letters.written == [
        ReplayOutcome("one", "job", Status.SETTLED, "published", "", NOW),
        ReplayOutcome("two", "job", Status.DIED_AGAIN, "dead", "successor", NOW),
    ]


async def test_while_the_store_is_away_outcomes_wait_up_to_a_bound_and_the_rest_is_counted() -> None:
    bench = Bench()
    bench.letters.failure = StoreUnavailable(store_silent())
    for number in range(10_007):
        bench.replays.note(replay(f"letter-{number}"), Outcome.STORED, None)
    assert bench.reported.warnings == [("replay_outcomes_missed", {"count": 1})]  # once a minute

    task = asyncio.create_task(bench.replays.run())
    await eventually_async(lambda: not bench.gate.is_open)
    bench.letters.failure = None
    await eventually_async(lambda: len(bench.letters.written) >= 10_000)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert {one.letter_id for one in bench.letters.written} == {f"letter-{number}" for number in range(10_000)}


async def test_a_store_that_refuses_costs_the_outcomes_and_nothing_else() -> None:
    bench = Bench()
    bench.letters.failure = ValueError("a bug")
    bench.replays.note(replay(), Outcome.STORED, None)

    await bench.run(lambda: bench.reported.warnings)

    assert bench.reported.warnings == [("replay_outcomes_missed", {"count": 1})]
    assert bench.letters.written == []
