"""Of one routing key the next begins when the one before it has ended; a retry stays in hand before the later ones."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.deliveries import NOW, FakeDelivery
from tests.support.eventually import eventually_async
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.cim import Identity
from worker.codes import Code
from worker.dead_letters.envelope import retry_copy, waiting_copy
from worker.dead_letters.provenance import attempt_of
from worker.failure import Failure
from worker.outcome import Outcome
from worker.pipeline.order import MOST_HELD, KeyOrder, Reason, Windows
from worker.pipeline.settlement import Settled
from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.ports import Delivery

_PARTITION = "cim.ingress.0"


class Stage:
    """A key order, what it began of held ones, what it sent to retry tiers, and why it gave up."""

    def __init__(
        self, *, most_bytes: int = 1_000_000, longest_seconds: float = 60, windows: Windows | None = None
    ) -> None:
        self.begun: list[Delivery] = []
        self.sent: list[Delivery] = []
        self.given_up: list[Reason] = []
        self.followed: list[Delivery] = []
        self.order = KeyOrder(
            key_of=lambda delivery: delivery.routing_key,
            windows=windows or Windows(1000, 1000, 50),
            most_bytes=most_bytes,
            seconds_of=float,
            own_user="worker",
            on_given_up=lambda _delivery, _key, reason: self.given_up.append(reason),
            longest_seconds=longest_seconds,
        )
        self.order.begin = self._begin
        self.order.on_followed = self.followed.append

    def _begin(self, batch: Sequence[Delivery]) -> None:
        self.begun += batch

    async def end(self, delivery: Delivery, outcome: Outcome = Outcome.PUBLISHED) -> None:
        self.order.settled(Settled(delivery, Identity(), outcome))
        await asyncio.sleep(0)

    def fail(self, delivery: Delivery, delay: str) -> bool:
        """Have *delivery* tried again after *delay* seconds; return whether it stays in hand."""
        attempt = attempt_of(delivery) + 1
        copy = retry_copy(delivery, Failure.of(Code.PUBLISH_REJECTED), delay, attempt=attempt, now=7, copy_id="copy")
        return self.order.hold(delivery, copy, delay, lambda: self.sent.append(delivery))

    def wait(self, delivery: Delivery) -> bool:
        """Have *delivery* wait for the store; return whether it does so in hand."""
        copy = waiting_copy(delivery, Failure.of(Code.STORE_UNAVAILABLE), now=7, copy_id="copy")
        return self.order.wait(delivery, copy, lambda: self.sent.append(delivery))


def of(key: str, *, queue: str = _PARTITION, body: bytes = b"{}") -> FakeDelivery:
    now = asyncio.get_running_loop().time()
    return FakeDelivery(body, routing_key=key, queue=queue, received_at=now)


def run(play: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        await play()

    asyncio.run(inside())


def test_one_of_each_key_begins_and_the_next_when_that_has_ended() -> None:
    async def play() -> None:
        stage = Stage()
        a1, a2, a3, b1 = of("a"), of("a"), of("a"), of("b")
        assert stage.order.admit([a1, a2, b1, a3]) == [a1, b1]
        await stage.end(b1)
        assert stage.begun == []
        for outcome, nexts in ((Outcome.PUBLISHED, [a2]), (Outcome.DEAD, [a2, a3]), (Outcome.STORED, [a2, a3])):
            await stage.end((a1, a2, a3)[max(0, len(stage.begun))], outcome)
            assert stage.begun == nexts
        assert stage.order.begun == 0
        a4 = of("a")
        assert stage.order.admit([a4]) == [a4]

    run(play)


def test_a_retry_stays_in_hand_before_the_later_ones_of_its_key_and_comes_back_as_its_copy_would() -> None:
    async def play() -> None:
        stage = Stage()
        a1, a2, a3, b1 = of("a"), of("a"), of("a"), of("b")
        stage.order.admit([a1, a2])
        assert stage.fail(a1, "0.02")
        assert stage.order.begun == 0
        assert stage.order.admit([a3, b1]) == [b1]
        await eventually_async(lambda: len(stage.begun) == 1)
        again = stage.begun[0]
        assert (again.tag, again.queue, again.body, again.received_at) == (a1.tag, a1.queue, a1.body, a1.received_at)
        assert attempt_of(again) == 2
        assert (again.properties.user_id, again.properties.headers[contract.ORIGIN_QUEUE]) == ("worker", _PARTITION)
        assert stage.fail(again, "0.02")
        await eventually_async(lambda: len(stage.begun) == 2)
        assert attempt_of(stage.begun[1]) == 3
        await stage.end(stage.begun[1])
        await stage.end(a2)
        assert stage.begun[2:] == [a2, a3]
        assert (stage.sent, stage.given_up) == ([], [])

    run(play)


def test_a_hundred_held_behind_a_retry_are_the_most_and_then_it_goes_to_its_tier_and_is_counted() -> None:
    async def play() -> None:
        stage = Stage()
        first, *later = [of("a") for _ in range(MOST_HELD + 2)]
        stage.order.admit([first])
        assert stage.fail(first, "5")
        stage.order.admit(later[:-1])
        assert stage.sent == []
        stage.order.admit(later[-1:])
        assert (stage.sent, stage.given_up, stage.begun) == ([first], [Reason.TOO_MANY], [])
        await stage.end(first, Outcome.RETRY)  # the tier has it
        assert stage.begun == later[:1]
        for delivery in later:
            await stage.end(delivery)
        assert (stage.begun, stage.order.begun) == (later, 0)

    run(play)


def test_a_burst_of_one_key_is_no_reason_to_give_its_order_up() -> None:
    async def play() -> None:
        stage = Stage(windows=Windows(20, 20, 5))
        burst = [of("a") for _ in range(3 * MOST_HELD)]
        assert stage.order.admit(burst) == burst[:1]
        for delivery in burst:
            await stage.end(delivery)
        assert (stage.begun, stage.given_up) == (burst[1:], [])

    run(play)


def test_retries_of_all_keys_hold_no_more_than_half_of_what_may_be_held_of_their_queue() -> None:
    async def play() -> None:
        stage = Stage(windows=Windows(16, 8, 5))
        for key in "ab":
            first = of(key)
            stage.order.admit([first])
            assert stage.fail(first, "5")
        stage.order.admit([of("a"), of("b")])
        other = of("c", queue="cim.ingress.1")
        stage.order.admit([other])
        assert stage.fail(other, "5")
        assert stage.given_up == []
        more = of("d")
        stage.order.admit([more])
        assert not stage.fail(more, "5")
        stage.order.admit([of("a")])
        assert stage.given_up == [Reason.TOO_MANY_IN_ALL] * 2
        assert len(stage.sent) == 1
        await stage.end(more, Outcome.RETRY)

    run(play)


def test_retries_hold_few_bytes_or_nothing_would_be_read_any_more() -> None:
    async def play() -> None:
        stage = Stage(most_bytes=1000)
        first, large = of("a", body=b"x" * 500), of("a", body=b"x" * 501)
        stage.order.admit([first])
        assert stage.fail(first, "5")
        stage.order.admit([large])
        assert (stage.given_up, stage.sent) == ([Reason.TOO_LARGE], [first])

    run(play)


def test_a_retry_that_would_be_too_late_goes_to_its_tier_at_once_and_the_next_begins() -> None:
    async def play() -> None:
        stage = Stage(longest_seconds=1)
        a1, a2 = of("a"), of("a")
        stage.order.admit([a1, a2])
        assert not stage.fail(a1, "2")
        assert (stage.given_up, stage.sent) == ([Reason.TOO_LONG], [])
        await stage.end(a1, Outcome.RETRY)
        assert stage.begun == [a2]
        assert stage.fail(a2, "0.5")

    run(play)


def test_one_that_has_been_in_progress_for_too_long_is_overtaken() -> None:
    async def play() -> None:
        stage = Stage(longest_seconds=0.02)
        in_hand, later = of("b"), of("b")
        stage.order.admit([in_hand])
        await asyncio.sleep(0.03)
        stage.order.admit([later])
        await asyncio.sleep(0)
        assert (stage.begun, stage.given_up) == ([later], [Reason.IN_PROGRESS])
        assert not stage.fail(in_hand, "0.001")
        await stage.end(in_hand)
        await stage.end(later)
        assert stage.order.admit([new := of("b")]) == [new]

    run(play)


def test_what_waits_in_the_waiting_room_has_an_order_of_its_own() -> None:
    async def play() -> None:
        stage = Stage()
        w1, w2, new = of("a", queue=contract.WAITING), of("a", queue=contract.WAITING), of("a")
        assert stage.order.admit([w1, w2]) == [w1]
        assert stage.order.admit([new]) == [new]
        await stage.end(new, Outcome.WAITING)
        await stage.end(w1)
        assert (stage.begun, stage.given_up) == ([w2], [])

    run(play)


def test_what_came_from_the_waiting_room_stays_in_hand_while_the_store_is_away_again() -> None:
    async def play() -> None:
        stage = Stage(windows=Windows(2, 2, 2))
        first, second, ended = (of("a", queue=contract.WAITING) for _ in range(3))
        stage.order.admit([first, second])
        assert stage.wait(first)
        assert stage.order.begun == 0
        await eventually_async(lambda: len(stage.begun) == 1)
        assert stage.begun[0].tag == first.tag
        await stage.end(stage.begun[0])
        second.received_at -= 2000
        assert not stage.wait(second)
        ended.prior_deliveries = 5
        await stage.end(second, Outcome.WAITING)
        stage.order.admit([ended])
        assert not stage.wait(ended)
        assert stage.given_up == [Reason.WAITS_AGAIN] * 2

    run(play)


def test_whoever_holds_one_in_hand_is_told_when_a_later_one_of_its_key_has_come() -> None:
    async def play() -> None:
        stage = Stage()
        a1, b1 = of("a"), of("b")
        stage.order.admit([a1, b1])
        assert not stage.order.is_followed(a1)
        stage.order.admit([of("a")])
        assert (stage.followed, stage.order.is_followed(a1), stage.order.is_followed(b1)) == ([a1], True, False)

    run(play)


def test_after_the_end_nothing_held_begins_and_what_fails_goes_back_to_its_place() -> None:
    async def play() -> None:
        stage = Stage()
        a1, a2, b1, b2 = of("a"), of("a"), of("b"), of("b")
        stage.order.admit([a1, a2, b1, b2])
        assert stage.fail(b1, "0.001")
        stage.order.end()
        assert stage.fail(a1, "0.001")
        await asyncio.sleep(0.02)
        assert (stage.begun, stage.sent, stage.order.begun, stage.given_up) == ([], [], 0, [])

    run(play)


@pytest.mark.parametrize(
    ("prefetch", "partitions", "windows"),
    [
        (2000, 1, Windows(500, 500, 50)),
        (2000, 4, Windows(800, 200, 50)),
        (2000, 16, Windows(2000, 125, 50)),
        (40, 4, Windows(40, 10, 5)),
        (1, 2, Windows(1, 1, 1)),
    ],
)
def test_a_partition_has_room_for_a_hundred_behind_a_retry_where_the_prefetch_allows_it(
    prefetch: int, partitions: int, windows: Windows
) -> None:
    assert Windows.of(prefetch, partitions) == windows


class Ordered:
    """A pipeline between fakes that keeps the order of each key."""

    def __init__(self) -> None:
        self.given_up: list[Reason] = []
        self.order = KeyOrder(
            key_of=lambda delivery: delivery.routing_key,
            windows=Windows(100, 100, 50),
            most_bytes=10**6,
            seconds_of=lambda _delay: 0.02,
            own_user=None,
            on_given_up=lambda _delivery, _key, reason: self.given_up.append(reason),
        )
        self.harness = PipelineHarness(order=self.order)
        storing = self.harness.storing
        storing.is_followed, self.order.on_followed = self.order.is_followed, storing.release
        self.order.begin = lambda batch: asyncio.ensure_future(self.harness.pipeline.process(batch))

    async def process(self, *batch: FakeDelivery) -> None:
        if admitted := self.order.admit(batch):
            await self.harness.pipeline.process(admitted)
        await asyncio.sleep(0.01)


def activity(number: int, queue: str = _PARTITION, **header: object) -> FakeDelivery:
    message = {"id": f"m-{number}", "header": {"sender": {"id": "app-1", "type": "APP"}, **header}}
    body = json.dumps({**message, "body": {"type": "PLAIN", "markdownText": "hello"}}).encode()
    made = of("key", queue=queue, body=body)
    made.tag, made.received_at = number, NOW / 1000
    return made


def test_a_refused_event_is_published_before_the_later_ones_and_has_one_outcome() -> None:
    async def play() -> None:
        made = Ordered()
        harness = made.harness
        harness.publisher.full.add("c-1")
        await made.process(activity(1, conversationId="c-1"), activity(2, conversationId="c-1"))
        assert (harness.outcomes, harness.reported.retries_held) == ({}, 1)
        assert harness.reported.letters == [("publish_rejected", 1, True)]
        harness.publisher.full.clear()
        await eventually_async(lambda: harness.outcomes == {"published": 2})
        assert [one.tag for one in harness.settled] == [1, 2]
        assert [json.loads(one.body)["data"]["id"] for one in harness.at("c-1")] == ["m-1", "m-2"]
        assert (made.order.begun, made.given_up) == (0, [])

    run(play)


def test_what_is_kept_to_probe_with_leaves_as_soon_as_a_later_one_of_its_key_has_come() -> None:
    async def play() -> None:
        made = Ordered()
        harness = made.harness
        harness.store.away = True
        await made.process(activity(1, customer={"_id": "u"}))
        assert (harness.outcomes, len(harness.storing)) == ({}, 1)
        await made.process(activity(2, customer={"_id": "u"}), activity(3, customer={"_id": "u"}))
        await eventually_async(lambda: harness.outcomes == {"waiting": 2})
        assert [one.tag for one in harness.settled] == [1, 2]
        assert len(harness.storing) == 1
        await harness.pipeline.stop()

    run(play)


def test_what_waited_for_the_store_stays_in_hand_when_the_registry_is_away_again() -> None:
    async def play() -> None:
        made = Ordered()
        harness = made.harness
        harness.registry.away = True
        first, second = (activity(number, contract.WAITING, channelSessionId="s-1") for number in (1, 2))
        await made.process(first, second)
        assert (harness.outcomes, harness.waiting) == ({}, [])
        harness.registry.away = False
        await eventually_async(lambda: harness.outcomes == {"stored": 2})
        assert [one.tag for one in harness.settled] == [1, 2]
        assert made.given_up == []
        await harness.pipeline.stop()

    run(play)


def test_what_nobody_took_and_then_waited_for_the_store_is_stored_whoever_listens_by_then() -> None:
    """Later ones of its key may have arrived meanwhile: it would be behind them."""

    async def play() -> None:
        made = Ordered()
        harness = made.harness
        harness.publisher.unbound.add("c-1")
        harness.store.away = True
        probe = activity(1, customer={"_id": "u"})
        probe.routing_key = "other"
        await made.process(probe)  # closes the gate
        await made.process(activity(2, conversationId="c-1"), activity(3, conversationId="c-1"))
        await eventually_async(lambda: harness.waiting)
        waiting = harness.waiting[0]
        assert (waiting.headers or {})[contract.STORED_BECAUSE] == "unknown_conversation"

        harness.publisher.unbound.clear()
        harness.store.away = False
        await eventually_async(lambda: harness.store_gate.is_open, seconds=5)
        again = activity(2, contract.WAITING, conversationId="c-1")
        again.properties = Properties(headers=dict(waiting.headers or {}))
        before = len(harness.at("c-1"))
        await made.process(again)
        await eventually_async(lambda: again in harness.settled)
        assert len(harness.at("c-1")) == before
        assert harness.store.reasons[-1] == "unknown_conversation"
        await harness.pipeline.stop()

    run(play)


def test_what_waited_probes_the_store_though_the_end_of_a_session_brought_it_back() -> None:
    """It stays in hand all the same; if it could not probe, a room full of such would find no end of an outage."""

    async def play() -> None:
        made = Ordered()
        harness = made.harness
        harness.store.away = True
        back = activity(1, contract.WAITING, customer={"_id": "u"})
        back.prior_deliveries = 4
        too_often = activity(2, contract.WAITING, customer={"_id": "v"})
        too_often.routing_key, too_often.prior_deliveries = "other", 5
        await made.process(back, too_often)
        await eventually_async(lambda: harness.outcomes == {"waiting": 1})
        assert (harness.settled, len(harness.storing)) == ([too_often], 1)
        harness.store.away = False
        await eventually_async(lambda: back in harness.settled)
        assert harness.outcomes == {"waiting": 1, "stored": 1}
        await harness.pipeline.stop()

    run(play)
