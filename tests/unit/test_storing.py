"""What needs the store, where sessions end, probes race and messages come back: settled once, proven, and never hot."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import FakeDelivery, delivery
from tests.support.eventually import eventually_async
from tests.support.fakes import FakeStore
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.codes import Code, Stage
from worker.failure import Failure
from worker.ports import Outgoing, Properties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.pipeline.ports import StoreResult
    from worker.pipeline.translate import Activity

PERHAPS = Failure(Code.UNEXPECTED_ERROR, Stage.STORE, "perhaps", "f2")
NEVER = Failure(Code.STORE_REJECTED, Stage.STORE, "never", "f1")


def customers(number: object = 1, **properties: Any) -> FakeDelivery:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    body = {"id": f"m-{number}", "header": header, "body": {"type": "PLAIN", "markdownText": "hello"}}
    return delivery(json.dumps(body).encode(), **properties)


def of_conversation(name: str, number: object = 1) -> FakeDelivery:
    header = {"sender": {"id": "app-1", "type": "APP"}, "conversationId": name}
    body = {"id": f"m-{number}", "header": header, "body": {"type": "PLAIN", "markdownText": "hello"}}
    return delivery(json.dumps(body).encode())


def came_back(copy: Outgoing, **headers: Any) -> FakeDelivery:
    queue = contract.WAITING if copy.routing_key == contract.WAITING else contract.INGRESS
    return FakeDelivery(
        copy.body, Properties(headers={**dict(copy.headers or {}), **headers}), exchange="", queue=queue
    )


class SlowStore(FakeStore):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        self.asked += 1
        await self.answers.wait()
        return await super().store(activities, now_ms)


async def in_outage(**options: Any) -> PipelineHarness:
    """Return a harness with one message in hand for an outage."""
    harness = PipelineHarness(**options)
    harness.store.away = True
    await harness.process(customers(1))
    assert not harness.store_gate.is_open
    return harness


# -- sessions end -----------------------------------------------------------------------------------------------------


async def test_what_a_session_holds_in_the_outage_of_the_one_before_it_is_stored_after_it() -> None:
    first = await in_outage()
    await first.pipeline.stop()
    second = PipelineHarness(store=first.store, before=first)
    second.storing.start()
    await second.process(customers(2))
    assert second.outcomes == {}, "held to probe with"
    second.store.away = False
    await eventually_async(lambda: len(second.settled) == 1, seconds=5)
    assert second.store_gate.is_open
    assert not first.settled


async def test_one_outage_is_one_line_however_many_sessions_end_in_it() -> None:
    before = await in_outage()
    for number in range(3):
        await before.pipeline.stop()
        session = PipelineHarness(store=before.store, before=before)
        session.storing.start()
        await session.process(customers(number))
        session.clock.ms += 10_000
        await asyncio.sleep(0.3)
        assert not session.store_gate.is_open
        before = session
    before.store.away = False
    await eventually_async(lambda: before.store_gate.is_open, seconds=5)
    assert len(before.reported.down) == len(before.reported.up) == 1


async def test_a_probe_in_flight_when_its_session_ends_settles_and_counts_nothing() -> None:
    store = SlowStore()
    harness = await in_outage(store=store)
    store.answers.clear()
    asked = store.asked
    await eventually_async(lambda: store.asked > asked, "a probe is in flight", seconds=5)
    await harness.pipeline.stop()
    store.away = False
    store.answers.set()
    await asyncio.sleep(0.3)
    assert not harness.settled
    assert harness.outcomes == {}
    assert len(harness.storing) == 0


async def test_what_the_end_of_a_session_brought_back_is_not_held_through_the_next_one() -> None:
    """Each end counts towards the broker's limit: held again and again, a message would die of an outage."""
    harness = await in_outage()
    again = customers(2)
    again.prior_deliveries = 1
    await harness.process(again)
    assert harness.outcomes == {"waiting": 1}
    assert len(harness.storing) == 1


async def test_an_end_between_proof_and_resumption_leaves_the_others_unsettled() -> None:
    harness = await in_outage()
    await harness.process(customers(2))
    harness.store.away = False
    await eventually_async(lambda: harness.store_gate.is_open, seconds=5)
    await harness.pipeline.stop()
    settled = len(harness.settled)
    await asyncio.sleep(0.1)
    assert len(harness.settled) == settled


async def test_what_is_parsed_is_counted_no_more_when_an_outage_begins_between_two_writes() -> None:
    store = SlowStore()
    store.answers.clear()
    harness = PipelineHarness(store=store, bundle=1)
    await harness.process(customers(1))
    store.away = True
    store.answers.set()
    await harness.pipeline.process([customers(2), customers(3), customers(4)])  # begun, and not yet written
    await eventually_async(lambda: not harness.store_gate.is_open)
    await asyncio.sleep(0)
    assert harness.storing._parsed_bytes == 0


async def test_what_fails_twice_just_after_another_was_stored_comes_back_later_and_closes_the_store_to_nobody() -> None:
    harness = PipelineHarness()
    harness.store.unproven["m-bad"] = PERHAPS
    await harness.process(customers("good"))
    harness.clock.ms += 1
    await harness.process(customers("bad"))
    await harness.process(came_back(harness.waiting[0]))
    assert (harness.outcomes, harness.store_gate.is_open) == ({"stored": 1, "waiting": 1, "retry": 1}, True)
    again = harness.at(contract.retry_queue("10s"), "")[0]
    assert (again.headers or {})[contract.ATTEMPT] == 1, "no attempt is spent"
    harness.clock.ms += 1000
    await harness.process(came_back(harness.waiting[0]))
    assert not harness.store_gate.is_open, "none was stored for a second"


# -- proof ------------------------------------------------------------------------------------------------------------


async def test_what_the_store_holds_already_or_refuses_does_not_end_an_outage() -> None:
    harness = PipelineHarness()
    await harness.process(customers("held"))
    harness.store.away = True
    await harness.process(customers("held"), customers("refused"), customers("new"), customers("newer"))
    harness.store.away = False
    harness.store.refuses["m-refused"] = NEVER
    harness.store.unproven = {"m-new": PERHAPS, "m-newer": PERHAPS}  # as with a full disk
    await eventually_async(lambda: harness.outcomes["dead"] == 1, seconds=5)
    assert harness.outcomes == {"stored": 1, "duplicate": 1, "dead": 1}
    await asyncio.sleep(0.3)
    assert not harness.store_gate.is_open
    harness.store.unproven = {}
    await eventually_async(lambda: harness.outcomes["stored"] == 3, seconds=5)
    assert len(harness.reported.down) == len(harness.reported.up) == 1


async def test_a_message_to_probe_with_gets_time_to_come_before_the_gate_opens_without_one() -> None:
    harness = await in_outage()
    harness.clock.ms += 301_000
    await eventually_async(lambda: harness.storing.room == 1, seconds=5)
    await asyncio.sleep(0.4)
    assert not harness.store_gate.is_open, "it may be on its way"
    harness.clock.ms += 2_000
    await eventually_async(lambda: harness.store_gate.is_open, "nothing waits anywhere", seconds=5)
    assert harness.storing.room > 0


async def test_messages_that_always_fail_do_not_hold_the_gate_however_many_they_are() -> None:
    harness = PipelineHarness()
    failing = [f"failing-{number}" for number in range(20)]
    harness.store.unproven = {f"m-{name}": PERHAPS for name in failing}
    await harness.process(*map(customers, failing))
    harness.clock.ms += 10
    await harness.process(*map(came_back, harness.waiting))
    assert not harness.store_gate.is_open, "all failed twice and none was stored: it may be the store"
    brought = len(failing)
    await harness.process(customers("good"))
    async with asyncio.timeout(20):
        while not harness.outcomes["stored"]:
            if harness.storing.room and brought < len(harness.waiting):
                await harness.process(came_back(harness.waiting[brought]))
                brought += 1
            await asyncio.sleep(0.01)
    await eventually_async(lambda: harness.store_gate.is_open, "one was stored", seconds=5)
    await eventually_async(lambda: harness.outcomes["retry"], "those that failed before and after it", seconds=5)
    assert not harness.outcomes["dead"]


async def test_another_processs_fast_clock_does_not_make_a_message_close_the_gate_again_and_again() -> None:
    harness = PipelineHarness(store=SlowStore())
    harness.store.unproven["m-1"] = PERHAPS
    await harness.process(customers(1), customers(2))
    (copy,) = harness.waiting
    back = came_back(copy, **{contract.SUSPECTED_AT: harness.clock.ms + 3_600_000})
    harness.store.answers.clear()
    await harness.process(back, customers(3))
    harness.clock.ms += 10  # while it is written
    harness.store.answers.set()
    await eventually_async(lambda: harness.outcomes == {"waiting": 1, "stored": 2, "retry": 1}, seconds=5)
    assert harness.store_gate.is_open


# -- what comes back --------------------------------------------------------------------------------------------------


async def test_an_event_refused_twice_is_not_published_again_when_it_comes_from_the_waiting_room() -> None:
    harness = PipelineHarness()
    harness.publisher.full.add("c-1")
    tried: list[str] = []
    real = harness.publisher.publish

    async def watched(messages: Sequence[Outgoing]) -> Any:
        tried.extend(one.routing_key for one in messages if one.exchange == contract.HUB)
        return await real(messages)

    harness.publisher.publish = watched
    await harness.process(of_conversation("c-1"))
    (again,) = harness.at(contract.retry_queue("1s"), "")
    harness.store.away = True
    await harness.process(*(customers(number) for number in range(8)))  # held to probe with
    await harness.process(came_back(again))
    (waiting,) = harness.waiting
    assert tried == ["c-1", "c-1"]
    harness.store.away = False
    await eventually_async(lambda: harness.store_gate.is_open, seconds=5)
    await harness.process(came_back(waiting))
    assert tried == ["c-1", "c-1"], "the other subscribers have it twice already"
    assert harness.store.reasons[-1] == "refused_by_subscriber"


async def test_messages_that_nobody_took_live_leave_the_memory_of_parsed_ones_as_it_was() -> None:
    harness = PipelineHarness()
    harness.publisher.unbound.update(f"c-{number}" for number in range(50))
    for number in range(50):
        await harness.process(of_conversation(f"c-{number}", number))
    assert harness.outcomes == {"stored": 50}
    assert harness.storing._parsed_bytes == 0
