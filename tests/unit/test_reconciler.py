"""What a bug costs the comparison of exchanges with the registry: a round, and no conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.deliveries import FakeClock, RecordingReporter
from tests.support.eventually import eventually_async
from tests.support.workbench import running
from worker.conversations import reconciler
from worker.conversations.reconciler import ExchangeReconciler
from worker.failure import Dependency
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Collection

    import pytest


class FakeRegistry:
    """Raises what nobody foresaw at the first question, and knows nobody."""

    def __init__(self) -> None:
        self.asked: list[Collection[str]] = []

    async def read(self, conversation_ids: Collection[str]) -> dict[str, Any]:
        self.asked.append(set(conversation_ids))
        if len(self.asked) == 1:
            raise ZeroDivisionError
        return {}


class FakeConvergence:
    """Has nothing to do."""

    failures: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it

    async def converge(self, _records: Any) -> FakeConvergence:
        return self


class NoSeat:
    """Is never free."""

    async def take(self) -> bool:
        return False


async def test_what_has_to_be_converged_is_not_forgotten_in_a_round_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_AGAIN_SECONDS", 0.05)
    clock, reported, registry = FakeClock(), RecordingReporter(), FakeRegistry()
    outage = Outage("store", address="fake", reporter=reported, clock=clock)
    anything: Any = registry, FakeConvergence(), NoSeat()
    one = ExchangeReconciler(
        registry=anything[0],
        convergence=anything[1],
        reaper=anything[2],
        gate=Gate(
            Dependency.STORE, "lifecycle", outage=outage, backoff=Backoff(0.1, 2, random=lambda: 0.0), clock=clock
        ),
        seat=anything[2],
        expiry_ms=1,
        clock=clock,
        reporter=reported,
    )
    one.owe("c-1")
    async with running(one.run()):
        await eventually_async(lambda: len(registry.asked) > 1)

    assert registry.asked[:2] == [{"c-1"}, {"c-1"}]
    assert [what for what, _ in reported.warnings] == ["exchanges_not_reconciled"]
