"""A process hears of a pause, keeps the last known state while the store is away, and says when it is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import FakeClock, RecordingReporter
from tests.support.eventually import eventually_async
from worker.codes import Code
from worker.failure import AdapterError, Failure, OperatorFault, StoreUnavailable
from worker.flow.pause import NOT_PAUSED, Pause, PauseState
from worker.flow.tasks import cancel_and_wait
from worker.process import membership
from worker.process.membership import Membership

if TYPE_CHECKING:
    import pytest

PAUSED = PauseState(is_paused=True, by="alice", reason="maintenance", at=1)


class FakePools:
    """Answers with a state, or fails."""

    def __init__(self) -> None:
        self.answer: PauseState | AdapterError = PAUSED
        self.asked = 0
        self.written: list[Any] = []

    async def state(self, _pool: str) -> PauseState:
        self.asked += 1
        if isinstance(self.answer, AdapterError):
            raise self.answer
        return self.answer

    async def report(self, _pool: str, _process: object, facts: Any, _now: int) -> None:
        self.written.append(facts)

    async def forget_gone(self, _pool: str, _now: int) -> None:
        """There are none."""


async def still_closed(pools: FakePools, pause: Pause, failure: AdapterError) -> None:
    """See that some failures change nothing."""
    pools.answer = failure
    enough = pools.asked + 3
    await eventually_async(lambda: pools.asked > enough)
    assert pause.is_closed


async def test_the_last_known_state_holds_in_an_outage_and_a_refusal_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "_LOOK_SECONDS", 0.01)
    pools, pause, reporter = FakePools(), Pause(), RecordingReporter()
    member = Membership(
        pools,  # type: ignore[arg-type] # what it needs of it
        "default",
        index=0,
        pause=pause,
        facts=lambda: {"ready": True},
        clock=FakeClock(),
        reporter=reporter,
    )
    assert not pause.is_known
    running = asyncio.create_task(member.run())
    try:
        await asyncio.wait_for(pause.wait_closed(), 5)
        assert reporter.warnings == [("paused", {"by": "alice", "reason": "maintenance"})]
        await eventually_async(lambda: pools.written and pools.written[-1]["paused"])

        await still_closed(pools, pause, StoreUnavailable(Failure.of(Code.STORE_UNAVAILABLE)))
        await still_closed(pools, pause, OperatorFault(Failure.of(Code.STORE_ACCESS_REFUSED, "no right")))
        ((event, facts),) = reporter.warnings[1:]
        assert event == "pool_refused"
        assert "no right" in str(facts["reason"])

        pools.answer = NOT_PAUSED
        await asyncio.wait_for(pause.wait_open(), 5)
        assert reporter.infos == [("resumed", {})]
    finally:
        await cancel_and_wait([running])
