"""A dependency that is down: work waits, and probing ends the wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.codes import Code
from worker.failure import Dependency, Failure, OperatorFault, StoreRefused, StoreUnavailable, store_silent
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage

AWAY = store_silent()
REFUSED = Failure.of(Code.STORE_ACCESS_REFUSED, dependency=Dependency.STORE)


class Work:
    """Fails as often as it was told to, each time with the next error; then it is done."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.reported = RecordingReporter()
        self.clock = FakeClock()
        self.outage = Outage("store", address="here", reporter=self.reported, clock=self.clock)
        self.gate = self.made_gate("writes")

    def made_gate(self, work: str) -> Gate:
        backoff = Backoff(0.02, 0.1, random=lambda: 0.0)
        return Gate(Dependency.STORE, work, outage=self.outage, backoff=backoff, clock=FakeClock())

    async def do(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_it_is_open_at_first_and_nobody_waits() -> None:
    gate = Work().gate
    assert gate.is_open
    assert gate.failure is None
    await asyncio.wait_for(gate.wait(), 1)


async def test_an_outage_is_reported_once_and_ends_when_the_failed_work_is_done() -> None:
    work = Work(StoreUnavailable(AWAY), OperatorFault(REFUSED))
    gate = work.gate
    assert gate.close(AWAY, work.do)
    assert not gate.close(REFUSED, work.do)
    assert not gate.is_open
    assert gate.failure is AWAY
    assert work.reported.down == ["store store_unavailable"]
    await asyncio.wait_for(gate.wait(), 5)
    assert work.tries == 3
    assert gate.failure is None
    assert work.reported.down == ["store store_unavailable"]
    assert work.reported.up == ["store"]


async def test_a_probe_that_fails_unexpectedly_is_not_the_last_one() -> None:
    work = Work(RuntimeError("a bug in the driver"))
    work.gate.close(AWAY, work.do)
    await asyncio.wait_for(work.gate.wait(), 5)
    assert work.tries == 2


async def test_it_closes_again_after_it_opened() -> None:
    work = Work()
    for _ in range(2):
        work.gate.close(AWAY, work.do)
        await asyncio.wait_for(work.gate.wait(), 5)
        work.clock.ms += 10_000
    assert work.tries == 2
    assert len(work.reported.down) == len(work.reported.up) == 2


async def test_several_kinds_of_work_that_fail_in_one_outage_are_one_line_and_one_end() -> None:
    work = Work(StoreUnavailable(AWAY), StoreUnavailable(AWAY), StoreUnavailable(AWAY))
    lookups = work.made_gate("lookups")
    work.gate.close(AWAY, work.do)
    lookups.close(AWAY, work.do)
    await asyncio.wait_for(asyncio.gather(work.gate.wait(), lookups.wait()), 5)
    assert len(work.reported.down) == len(work.reported.up) == 1


async def test_one_kind_of_work_that_fails_does_not_stop_another() -> None:
    work = Work(*[StoreUnavailable(AWAY)] * 1000)
    lookups = work.made_gate("lookups")
    work.gate.close(AWAY, work.do)
    assert lookups.is_open
    await work.gate.stop()


async def test_an_operation_is_done_again_after_the_outage_it_met_and_once_only() -> None:
    work = Work(StoreUnavailable(AWAY), OperatorFault(REFUSED), StoreUnavailable(AWAY))

    async def operation() -> str:
        await work.do()
        return "done"

    assert await asyncio.wait_for(work.gate.until_done(operation), 5) == "done"
    assert work.tries == 4, "the probe that succeeded was the operation itself"
    assert work.gate.is_open


async def test_an_answer_that_is_no_outage_ends_the_outage_and_reaches_the_caller() -> None:
    work = Work(StoreUnavailable(AWAY), StoreRefused(Failure.of(Code.STORE_REJECTED)))
    with pytest.raises(StoreRefused):
        await asyncio.wait_for(work.gate.until_done(work.do), 5)
    assert work.gate.is_open


@pytest.mark.parametrize(
    "error",
    [
        StoreRefused(Failure.of(Code.STORE_REJECTED)),
        OperatorFault(Failure.of(Code.BROKER_ACCESS_REFUSED, dependency=Dependency.BROKER)),
        KeyError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_not_this_dependencys_fault_does_not_close_it(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        await work.gate.until_done(work.do)
    assert work.gate.is_open


async def test_stopping_ends_the_probing_and_leaves_it_closed() -> None:
    work = Work(*[StoreUnavailable(AWAY)] * 1000)
    work.gate.close(AWAY, work.do)
    await work.gate.stop()
    assert work.gate._probing is not None
    assert work.gate._probing.cancelled()
    assert not work.gate.is_open
    await Work().gate.stop()


async def test_a_gate_whose_probing_was_stopped_opens_by_the_probe_of_whoever_resumes() -> None:
    first, second = Work(*[StoreUnavailable(AWAY)] * 1000), Work(StoreUnavailable(AWAY))
    gate = first.gate
    gate.close(AWAY, first.do)
    await gate.stop()
    gate.resume(second.do)
    gate.resume(first.do)
    await asyncio.wait_for(gate.wait(), 5)
    assert second.tries == 2
    assert first.reported.up == ["store"]
    gate.resume(first.do)
    assert gate.is_open
    assert first.tries == 0
