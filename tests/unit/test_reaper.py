"""When the exchanges of closed conversations are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from tests.support.eventually import eventually_async
from tests.support.workbench import running
from worker.codes import Code
from worker.conversations.conversation import ConversationRecord, Fact
from worker.conversations.reaper import Reaper
from worker.failure import Dependency, Failure
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE = 8_000


class FakeConvergence:
    """Deletes what it is told to, except for what it is told to refuse."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.refuses: dict[str, Failure] = {}

    async def delete_closed(self, conversation_ids: Sequence[str]) -> dict[str, Failure]:
        self.deleted += [one for one in conversation_ids if one not in self.refuses]
        return {one: self.refuses[one] for one in conversation_ids if one in self.refuses}


class FakeRegistry:
    """Pages of closed conversations that still have their exchange."""

    def __init__(self) -> None:
        self.leftovers: list[ConversationRecord] = []

    async def with_exchange(self, *, active: bool, limit: int, after: str) -> list[ConversationRecord]:
        assert not active
        return [one for one in self.leftovers if one.id > after][:limit]


def record(name: str, state: str) -> ConversationRecord:
    return ConversationRecord(name, Fact(state, 5), Fact(None, 0), Fact(None, 0), (), has_exchange=True)


class Bench:
    """A reaper between fakes; nothing is due before the clock is moved."""

    def __init__(self) -> None:
        self.clock, self.reported = FakeClock(), RecordingReporter()
        self.convergence, self.registry = FakeConvergence(), FakeRegistry()
        outage = Outage("store", address="fake", reporter=self.reported, clock=self.clock)
        backoff = Backoff(0.1, 2, random=lambda: 0.0)
        anything: Any = self.convergence, self.registry
        self.reaper = Reaper(
            registry=anything[1],
            convergence=anything[0],
            gate=Gate(Dependency.STORE, "lifecycle", outage=outage, backoff=backoff, clock=self.clock),
            grace_ms=GRACE,
            clock=self.clock,
            reporter=self.reported,
        )

    def deleted(self, *names: str) -> bool:
        return sorted(self.convergence.deleted) == sorted(names)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_of_close_open_close_the_last_close_counts(bench: Bench) -> None:
    async with running(bench.reaper.run()):
        bench.reaper.changed(record("c", "CLOSED"))
        bench.reaper.changed(record("reopened", "CLOSED"))
        bench.clock.ms += GRACE - 1
        bench.reaper.changed(record("c", "ACTIVE"))
        bench.reaper.changed(record("reopened", "ACTIVE"))
        bench.reaper.changed(record("c", "CLOSED"))
        bench.reaper.changed(record("other", "CLOSED"))
        bench.clock.ms += GRACE - 1
        assert bench.reaper._next_due() == []
        bench.clock.ms += 1
        await eventually_async(lambda: bench.deleted("c", "other"), "both")


async def test_leftovers_are_found_page_by_page_however_many(bench: Bench) -> None:
    bench.registry.leftovers = [record(f"c-{number:05}", "CLOSED") for number in range(2_500)]
    async with running(bench.reaper.run()):
        bench.reaper.look_back()
        await eventually_async(lambda: len(bench.reaper._due) == 2_500, "all leftovers")
        bench.clock.ms += GRACE
        await eventually_async(lambda: len(bench.convergence.deleted) == 2_500, "all deletions")
        assert bench.convergence.deleted[:2] == ["c-00000", "c-00001"]


async def test_what_cannot_be_deleted_is_tried_again_in_a_minute_and_holds_up_no_other(bench: Bench) -> None:
    bench.convergence.refuses["kept"] = Failure.of(Code.BROKER_ACCESS_REFUSED, dependency=Dependency.BROKER)
    bench.convergence.refuses["not-ours"] = Failure.of(Code.EXCHANGE_TAKEN)
    async with running(bench.reaper.run()):
        for name in ("kept", "not-ours", "gone"):
            bench.reaper.changed(record(name, "CLOSED"))
        bench.clock.ms += GRACE
        await eventually_async(lambda: bench.deleted("gone"))
        assert [facts["conversation_id"] for _, facts in bench.reported.warnings] == ["kept", "not-ours"]
        bench.convergence.refuses.clear()
        bench.clock.ms += 59_999
        bench.reaper.changed(record("next", "CLOSED"))
        bench.clock.ms += GRACE
        await eventually_async(lambda: bench.deleted("gone", "kept", "next"), "all that is ours")
