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


class ReaperHarness:
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
def harness() -> ReaperHarness:
    return ReaperHarness()


async def test_of_close_open_close_the_last_close_counts(harness: ReaperHarness) -> None:
    async with running(harness.reaper.run()):
        harness.reaper.changed(record("c", "CLOSED"))
        harness.reaper.changed(record("reopened", "CLOSED"))
        harness.clock.ms += GRACE - 1
        harness.reaper.changed(record("c", "ACTIVE"))
        harness.reaper.changed(record("reopened", "ACTIVE"))
        harness.reaper.changed(record("c", "CLOSED"))
        harness.reaper.changed(record("other", "CLOSED"))
        harness.clock.ms += GRACE - 1
        assert harness.reaper._next_due() == []
        harness.clock.ms += 1
        await eventually_async(lambda: harness.deleted("c", "other"), "both")


async def test_leftovers_are_found_page_by_page_however_many(harness: ReaperHarness) -> None:
    harness.registry.leftovers = [record(f"c-{number:05}", "CLOSED") for number in range(2_500)]
    async with running(harness.reaper.run()):
        harness.reaper.look_back()
        await eventually_async(lambda: len(harness.reaper._due) == 2_500, "all leftovers")
        harness.clock.ms += GRACE
        await eventually_async(lambda: len(harness.convergence.deleted) == 2_500, "all deletions")
        assert harness.convergence.deleted[:2] == ["c-00000", "c-00001"]


async def test_what_cannot_be_deleted_is_tried_again_in_a_minute_and_holds_up_no_other(harness: ReaperHarness) -> None:
    harness.convergence.refuses["kept"] = Failure.of(Code.BROKER_ACCESS_REFUSED, dependency=Dependency.BROKER)
    harness.convergence.refuses["not-ours"] = Failure.of(Code.EXCHANGE_TAKEN)
    async with running(harness.reaper.run()):
        for name in ("kept", "not-ours", "gone"):
            harness.reaper.changed(record(name, "CLOSED"))
        harness.clock.ms += GRACE
        await eventually_async(lambda: harness.deleted("gone"))
        assert [facts["conversation_id"] for _, facts in harness.reported.warnings] == ["kept", "not-ours"]
        harness.convergence.refuses.clear()
        harness.clock.ms += 59_999
        harness.reaper.changed(record("next", "CLOSED"))
        harness.clock.ms += GRACE
        await eventually_async(lambda: harness.deleted("gone", "kept", "next"), "all that is ours")
