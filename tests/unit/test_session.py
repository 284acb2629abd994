"""One broker session's two consumers: what waits in the broker is brought back beside live traffic."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import FakeClock, FakeDelivery
from tests.support.eventually import eventually_async
from tests.support.fakes import SilentRegistry
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.conversations.conversation import Conversation
from worker.flow.pause import NOT_PAUSED, Pause, PauseState
from worker.flow.tasks import cancel_and_wait
from worker.pipeline.settlement import Settlement
from worker.process.session import IngressSession
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.ports import Outgoing


class FakeConsumer:
    """Delivers what was put in, while it is started, as many at a time as the prefetch allows."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.ready: deque[FakeDelivery] = deque()
        self.held: list[FakeDelivery] = []
        self.prefetches: list[int] = []
        self.cancelled = asyncio.Event()
        self.is_open = True
        self._arrived: deque[FakeDelivery] = deque()
        self._prefetch = 0

    async def start(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self.prefetches.append(prefetch)

    resize = start

    async def stop(self) -> None:
        self._prefetch = 0

    @property
    def may_deliver(self) -> bool:
        return bool(self._prefetch)

    @property
    def unsettled(self) -> int:
        return len(self.held)

    @property
    def waiting(self) -> int:
        while self.ready and len(self.held) < self._prefetch:
            self._arrived.append(self.ready.popleft())
            self._arrived[-1].received_at = self._clock.monotonic()
            self.held.append(self._arrived[-1])
        return len(self._arrived)

    async def wait_for_arrival(self) -> None:
        await eventually_async(lambda: self.waiting or self.cancelled.is_set())

    async def wait_for(self, count: int, timeout: float) -> None:  # noqa: ASYNC109 - as the real one
        await asyncio.sleep(timeout if self.waiting < count else 0)

    def take(self, max_count: int, max_bytes: int) -> Sequence[FakeDelivery]:
        assert max_bytes
        return [self._arrived.popleft() for _ in range(min(max_count, self.waiting))]

    def settle(self, delivery: Any) -> None:
        self.held.remove(delivery)

    async def hand_back(self, *, failed: bool = False) -> Sequence[FakeDelivery]:
        assert failed in {True, False}
        back, self.held = self.held, []
        return back

    async def close(self) -> None:
        self.is_open = False


class SessionHarness:
    """A session between fakes."""

    def __init__(
        self, settings: dict[str, Any] | None = None, *, has_lost_broker: bool = False, **options: Any
    ) -> None:
        self.harness = PipelineHarness(**options)
        self.pause = Pause(NOT_PAUSED)
        self.ingress, self.room = FakeConsumer(self.harness.clock), FakeConsumer(self.harness.clock)
        self.harness.settling = lambda one: (self.room if one.queue == contract.WAITING else self.ingress).settle(one)
        self.session = IngressSession(
            ingress=self.ingress,
            waiting_room=self.room,
            pipeline=self.harness.pipeline,
            storing=self.harness.storing,
            share=self.harness.share,
            settlement=Settlement(self.harness.settle, self.harness.reported, self.harness.clock),
            settings=Settings(rabbitmq_url="amqp://localhost", mongodb_uri="mongodb://localhost", **(settings or {})),
            clock=self.harness.clock,
            crash=self.harness.crash,
            pause=self.pause,
            has_lost_broker=has_lost_broker,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        session = self.session
        jobs = [asyncio.create_task(job) for job in (session.run(), session.run_consumer(), session.run_waiting_room())]
        yield
        await cancel_and_wait(jobs)


def waiting(number: int, **header: Any) -> FakeDelivery:
    place = header or {"customer": {"_id": "customer-1"}}
    message = {"id": f"m-{number}", "header": {"sender": {"id": "app-1", "type": "APP"}, **place}}
    body = json.dumps({**message, "body": {"type": "PLAIN", "markdownText": "hello"}}).encode()
    return FakeDelivery(body, queue=contract.WAITING)


def arriving(number: int, text: str = "hello", **header: Any) -> FakeDelivery:
    message = {"id": f"m-{number}", "header": {"sender": {"id": "app-1", "type": "APP"}, **header}}
    return FakeDelivery(json.dumps({**message, "body": {"type": "PLAIN", "markdownText": text}}).encode())


async def with_a_full_window(made: SessionHarness) -> None:
    """Have so many messages stored that the session takes as many as it may."""
    made.ingress.ready.extend(arriving(number, customer={"_id": "u-1"}) for number in range(-100, 0))
    await eventually_async(lambda: made.harness.outcomes == {"stored": 100}, seconds=10)
    made.harness.publisher.answers.clear()


@pytest.mark.parametrize("is_known", [True, False], ids=["remembered", "looked up"])
async def test_what_is_for_the_store_never_waits_for_confirms_that_stay_out_and_live_events_keep_their_order(
    *, is_known: bool
) -> None:
    at_once = 3 if is_known else 13
    made = SessionHarness({"batch_size": 5, "batches_in_flight": 2}, at_once=at_once, max_message_bytes=100_000)
    if is_known:
        known = Conversation("c-1", "ACTIVE", None, None, (), 0)
        made.harness.cache.remember(known, made.harness.clock.monotonic())
    live = [arriving(number, text="x" * 50_000, conversationId="c-1") for number in range(100)]

    def all_stored() -> bool:
        made.harness.clock.ms += 20
        return made.harness.outcomes == {"stored": 150}

    async with made.running():
        await with_a_full_window(made)
        anchor = {"customer": {"_id": "u-1"}} if is_known else {"channelSessionId": "unheard of"}
        made.ingress.ready.extend([*live, *(arriving(number, **anchor) for number in range(100, 150))])
        await eventually_async(all_stored, "without a single confirm", seconds=10)
        made.harness.publisher.answers.set()
        await eventually_async(lambda: made.harness.outcomes == {"stored": 150, "published": 100}, seconds=10)
    events = [json.loads(event.body) for event in made.harness.publisher.taken]
    assert [event["data"]["id"] for event in events] == [f"m-{number}" for number in range(100)]


async def test_a_session_that_is_lost_while_confirms_stay_out_publishes_nothing_of_what_it_kept() -> None:
    made = SessionHarness({"batch_size": 5, "batches_in_flight": 2}, at_once=3)

    def all_taken() -> bool:
        made.harness.clock.ms += 20
        return not made.ingress.ready and not made.ingress.waiting

    async with made.running():
        await with_a_full_window(made)
        made.ingress.ready.extend(arriving(number, conversationId="c-1") for number in range(100))
        await eventually_async(all_taken, seconds=10)
        made.harness.publisher.lost = True
        made.harness.publisher.answers.set()
        await eventually_async(lambda: not made.harness.pipeline.is_late, seconds=10)
    assert await made.session.abandon() == 100
    assert made.harness.reported.outcomes.keys() == {("stored", ""), ("handed_back", "")}


async def test_what_a_stuck_store_had_in_hand_when_the_broker_was_lost_holds_up_no_live_event() -> None:
    made = SessionHarness(has_lost_broker=True)
    answers = asyncio.Event()
    store = made.harness.store.store

    async def store_late(*activities: Any) -> Any:
        await answers.wait()
        return await store(*activities)

    made.harness.store.store = store_late
    back = [arriving(number, customer={"_id": "u-1"}) for number in range(300)]
    for one in back:
        one.redelivered, one.prior_deliveries = True, 1
    made.ingress.ready.extend([*back, *(arriving(number, conversationId="c-1") for number in range(300, 310))])
    async with made.running():
        await eventually_async(lambda: made.harness.outcomes["published"] == 10, "behind those", seconds=5)
        answers.set()
        await eventually_async(lambda: made.harness.outcomes["stored"] == 300, seconds=5)


async def test_a_new_process_whose_registry_is_silent_takes_few_deliveries_and_lets_live_events_go_on() -> None:
    made = SessionHarness(registry=SilentRegistry(), bundle=200)
    made.ingress.ready.extend(arriving(number, conversationId="c-1") for number in range(300))

    def most_are_published() -> bool:
        made.harness.clock.ms += 50
        return made.harness.outcomes["published"] >= 280

    async with made.running():
        await eventually_async(most_are_published, "but for what was asked for", seconds=10)
        assert max(made.ingress.prefetches) == 32, "others may have what is left"
        made.harness.registry.answers.set()
        await eventually_async(lambda: made.harness.outcomes == {"published": 300}, seconds=5)
        made.ingress.ready.append(arriving(301, conversationId="c-1"))
        await eventually_async(lambda: max(made.ingress.prefetches) > 32, "it keeps up", seconds=5)


async def test_what_waits_is_brought_back_with_a_window_that_grows() -> None:
    made = SessionHarness()
    made.room.ready.extend(waiting(number) for number in range(200))
    async with made.running():
        await eventually_async(lambda: made.harness.outcomes["stored"] == 200, "with a quiet ingress, too", seconds=8)
    assert made.room.prefetches[0] == 1
    assert made.room.prefetches == sorted(set(made.room.prefetches))


async def test_the_window_grows_by_what_comes_while_consuming_is_still_beginning() -> None:
    """The broker delivers with its answer: the first delivery may be on its way to a store that is away before it."""
    made = SessionHarness()
    made.harness.store.away = True
    made.ingress.ready.extend(waiting(number) for number in range(3))
    for one in made.ingress.ready:
        one.queue = contract.INGRESS
    begin = made.ingress.start

    async def begin_slowly(prefetch: int) -> None:
        await begin(prefetch)
        await eventually_async(lambda: made.ingress.held and not made.ingress.waiting, "the first one is taken")

    made.ingress.start = begin_slowly  # type: ignore[method-assign]
    async with made.running():
        await eventually_async(lambda: not made.ingress.ready, "all are delivered")
    assert made.ingress.prefetches[0] == 1
    assert made.ingress.prefetches[-1] > 1


async def test_after_an_outage_the_one_message_asked_for_does_not_set_the_pace() -> None:
    made = SessionHarness()
    made.room.ready.extend(waiting(number) for number in range(100))
    async with made.running():
        await eventually_async(lambda: made.harness.outcomes["stored"] == 100, seconds=5)
        made.harness.store.away = True
        made.ingress.ready.append(waiting(100))
        made.ingress.ready[0].queue = contract.INGRESS
        await eventually_async(lambda: not made.harness.store_gate.is_open, seconds=5)
        made.harness.clock.ms += 301_000  # nothing is in hand any more, so one is asked for
        await eventually_async(lambda: made.room.prefetches[-1] == 1, seconds=5)
        made.harness.store.away = False
        made.room.ready.extend(waiting(number) for number in range(200, 300))
        await eventually_async(lambda: not made.room.ready and not made.room.held, seconds=8)
        assert made.room.prefetches[-1] > 1


async def test_a_stop_in_the_middle_of_what_is_brought_back_leaves_it_to_its_end() -> None:
    made = SessionHarness()
    publishing, go_on = asyncio.Event(), asyncio.Event()
    real = made.harness.publisher.publish

    async def slow(messages: Sequence[Outgoing]) -> Any:
        publishing.set()
        await go_on.wait()
        return await real(messages)

    made.harness.publisher.publish = slow
    made.room.ready.append(waiting(1, conversationId="c-1"))
    async with made.running():
        await asyncio.wait_for(publishing.wait(), 5)
    go_on.set()
    assert (await asyncio.wait_for(made.session.drain(10), 5))[1] == 0
    assert made.harness.outcomes == {"published": 1}


async def test_what_needs_the_registry_comes_back_in_vain_at_most_fifty_times_a_second() -> None:
    made = SessionHarness(cache_ms=0)
    made.harness.registry.away = True
    made.room.ready.extend(waiting(number, channelSessionId="s-1") for number in range(200))
    made.harness.clock.ms += 1
    async with made.running():
        await eventually_async(lambda: made.harness.outcomes["waiting"] > 0, seconds=5)
        await asyncio.sleep(0.5)
        assert made.harness.outcomes["waiting"] <= 50
        made.harness.registry.away = False
        await eventually_async(lambda: len(made.harness.settled) == 200, seconds=20)
    assert made.harness.outcomes["stored"] >= 150


async def test_a_waiting_room_that_is_deleted_ends_its_consumer() -> None:
    made = SessionHarness()
    room = asyncio.create_task(made.session.run_waiting_room())
    await eventually_async(lambda: made.room.prefetches, seconds=5)
    made.room.cancelled.set()
    await asyncio.wait_for(room, 5)


async def test_a_paused_session_takes_nothing_finishes_what_it_holds_and_goes_on_when_it_is_resumed() -> None:
    made = SessionHarness()
    made.pause.set(PauseState(is_paused=True, by="alice", reason="maintenance"))
    made.room.ready.extend(waiting(number) for number in range(3))
    made.ingress.ready.extend(waiting(number) for number in range(3, 6))
    for one in made.ingress.ready:
        one.queue = contract.INGRESS
    async with made.running():
        await asyncio.sleep(0.3)
        assert (made.ingress.prefetches, made.room.prefetches) == ([], [])
        made.pause.set(NOT_PAUSED)
        await eventually_async(lambda: made.harness.outcomes["stored"] == 6, seconds=8)
