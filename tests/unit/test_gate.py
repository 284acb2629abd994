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


class Guarded:
    """Fails its probes as often as it was told to, each time with the next error."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.probes = 0
        self.reported = RecordingReporter()
        self.gate = Gate(
            Dependency.STORE,
            self.probe,
            outage=Outage("store", address="here", reporter=self.reported, clock=FakeClock()),
            backoff=Backoff(0.1, 2, random=lambda: 0.0),
        )

    async def probe(self) -> None:
        self.probes += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_it_is_open_at_first_and_nobody_waits() -> None:
    gate = Guarded().gate
    assert gate.is_open
    assert gate.failure is None
    await asyncio.wait_for(gate.wait(), 1)


async def test_an_outage_is_reported_once_probed_until_over_and_reported_again() -> None:
    guarded = Guarded(StoreUnavailable(AWAY), OperatorFault(REFUSED))
    gate = guarded.gate
    gate.close(AWAY)
    gate.close(REFUSED)
    assert not gate.is_open
    assert gate.failure is AWAY
    assert guarded.reported.down == ["store store_unavailable"]
    await asyncio.wait_for(gate.wait(), 5)
    assert guarded.probes == 3
    assert gate.failure is None
    assert guarded.reported.down == ["store store_unavailable"]
    assert guarded.reported.up == ["store"]


async def test_a_probe_that_fails_unexpectedly_is_not_the_last_one() -> None:
    guarded = Guarded(RuntimeError("a bug in the driver"))
    guarded.gate.close(AWAY)
    await asyncio.wait_for(guarded.gate.wait(), 5)
    assert guarded.probes == 2


async def test_it_closes_again_after_it_opened() -> None:
    guarded = Guarded()
    for _ in range(2):
        guarded.gate.close(AWAY)
        await asyncio.wait_for(guarded.gate.wait(), 5)
    assert guarded.probes == 2
    assert len(guarded.reported.down) == len(guarded.reported.up) == 2


async def test_an_operation_is_done_again_after_the_outage_it_met() -> None:
    guarded, answers = Guarded(), [StoreUnavailable(AWAY), OperatorFault(REFUSED)]

    async def operation() -> str:
        if answers:
            raise answers.pop(0)
        return "done"

    assert await asyncio.wait_for(guarded.gate.until_done(operation), 5) == "done"
    assert guarded.probes == 2


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
    gate = Guarded().gate

    async def operation() -> None:
        raise error

    with pytest.raises(type(error)):
        await gate.until_done(operation)
    assert gate.is_open


async def test_stopping_ends_the_probing_and_leaves_it_closed() -> None:
    guarded = Guarded(*[StoreUnavailable(AWAY)] * 1000)
    guarded.gate.close(AWAY)
    await guarded.gate.stop()
    assert guarded.gate._probing is not None
    assert guarded.gate._probing.cancelled()
    assert not guarded.gate.is_open
    await Guarded().gate.stop()
