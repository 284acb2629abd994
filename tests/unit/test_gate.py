"""A dependency that is down: work waits, and probing ends the wait."""

from __future__ import annotations

import asyncio

from worker.codes import Code, FailureClass, Stage
from worker.failure import Failure, StoreUnavailable, store_silent
from worker.gate import Gate

AWAY = store_silent()
REFUSED = Failure(FailureClass.OPERATOR, Code.STORE_ACCESS_REFUSED, Stage.STORE, "no", "f")


class Dependency:
    """Fails its probes as often as it was told to, each time with the next error."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.probes = 0
        self.told: list[object] = []
        self.now = 0.0
        self.gate = Gate(
            "store",
            self.probe,
            random=lambda: 0.0,
            clock=self.clock,
            on_close=lambda name, failure: self.told.append((name, failure.code)),
            on_open=lambda name, seconds: self.told.append((name, seconds)),
        )

    def clock(self) -> float:
        self.now += 1
        return self.now

    async def probe(self) -> None:
        self.probes += 1
        if self.errors:
            raise self.errors.pop(0)


async def test_it_is_open_at_first_and_nobody_waits() -> None:
    gate = Dependency().gate
    assert gate.is_open
    assert gate.failure is None
    await asyncio.wait_for(gate.wait(), 1)


async def test_an_outage_is_told_once_probed_until_over_and_told_again() -> None:
    dependency = Dependency(StoreUnavailable(AWAY), StoreUnavailable(REFUSED))
    gate = dependency.gate
    gate.close(AWAY)
    gate.close(REFUSED)
    assert not gate.is_open
    assert gate.failure is AWAY
    assert dependency.told == [("store", Code.STORE_UNAVAILABLE)]
    await asyncio.wait_for(gate.wait(), 5)
    assert dependency.probes == 3
    assert gate.failure is None
    assert dependency.told[1:] == [("store", 1.0)]


async def test_a_probe_that_fails_in_a_way_nobody_foresaw_is_not_the_last_one() -> None:
    dependency = Dependency(RuntimeError("a bug in the driver"))
    dependency.gate.close(AWAY)
    await asyncio.wait_for(dependency.gate.wait(), 5)
    assert dependency.probes == 2


async def test_it_closes_again_after_it_opened() -> None:
    dependency = Dependency()
    for _ in range(2):
        dependency.gate.close(AWAY)
        await asyncio.wait_for(dependency.gate.wait(), 5)
    assert dependency.probes == 2
    assert len(dependency.told) == 4


async def test_stopping_ends_the_probing_and_leaves_it_closed() -> None:
    dependency = Dependency(*[StoreUnavailable(AWAY)] * 1000)
    dependency.gate.close(AWAY)
    await dependency.gate.stop()
    assert dependency.gate._probing is not None
    assert dependency.gate._probing.cancelled()
    assert not dependency.gate.is_open
    await Dependency().gate.stop()
