"""Of one routing key the next begins when the one before it has ended; a retry holds the later ones for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.deliveries import FakeDelivery
from tests.support.eventually import eventually_async
from worker import contract
from worker.cim import Identity
from worker.outcome import Outcome
from worker.pipeline.order import MOST_HELD, KeyOrder
from worker.pipeline.settlement import Settled
from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.ports import Delivery


class Stage:
    """A key order, what it began of held ones, and how often it gave up."""

    def __init__(self, *, most_in_all: int = 1000, longest_seconds: float = 60) -> None:
        self.begun: list[Delivery] = []
        self.given_up = 0
        self.order = KeyOrder(
            key_of=lambda delivery: delivery.routing_key,
            most_in_all=most_in_all,
            on_given_up=self._count,
            longest_seconds=longest_seconds,
        )
        self.order.begin = self._begin

    def _count(self) -> None:
        self.given_up += 1

    def _begin(self, batch: Sequence[Delivery]) -> None:
        self.begun += batch

    async def end(self, delivery: Delivery, outcome: Outcome = Outcome.PUBLISHED) -> None:
        self.order.settled(Settled(delivery, Identity(), outcome))
        await asyncio.sleep(0)


def of(key: str, *, again: bool = False) -> FakeDelivery:
    """Return a delivery of *key*; *again*: the copy that comes back from a retry."""
    headers = {contract.ORIGIN_QUEUE: "cim.ingress.0", contract.FAILED_AT: 1} if again else {}
    return FakeDelivery(b"{}", Properties(headers=headers), routing_key=key)


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


def test_a_retry_holds_the_later_ones_of_its_key_until_it_has_come_back_and_ended() -> None:
    async def play() -> None:
        stage = Stage()
        a1, a2, a3, b1 = of("a"), of("a"), of("a"), of("b")
        stage.order.admit([a1, a2])
        await stage.end(a1, Outcome.RETRY)
        assert stage.order.admit([a3, b1]) == [b1]
        back = of("a", again=True)
        assert stage.order.admit([back]) == [back]
        assert stage.begun == []
        await stage.end(back)
        await stage.end(a2)
        assert stage.begun == [a2, a3]
        assert stage.given_up == 0

    run(play)


def test_a_hundred_held_behind_a_retry_are_the_most_and_then_their_order_is_given_up_and_counted() -> None:
    async def play() -> None:
        stage = Stage()
        first, *later = [of("a") for _ in range(MOST_HELD + 2)]
        stage.order.admit([first])
        await stage.end(first, Outcome.RETRY)
        stage.order.admit(later[:-1])
        assert stage.given_up == 0
        stage.order.admit(later[-1:])
        await asyncio.sleep(0)
        assert (stage.given_up, stage.begun) == (1, later[:1])
        for delivery in later:
            await stage.end(delivery)
        assert stage.begun == later

    run(play)


def test_a_burst_of_one_key_is_no_reason_to_give_its_order_up() -> None:
    async def play() -> None:
        stage = Stage(most_in_all=10)
        burst = [of("a") for _ in range(3 * MOST_HELD)]
        assert stage.order.admit(burst) == burst[:1]
        for delivery in burst:
            await stage.end(delivery)
        assert (stage.begun, stage.given_up) == (burst[1:], 0)

    run(play)


def test_all_keys_together_hold_no_more_than_a_part_of_the_window() -> None:
    async def play() -> None:
        stage = Stage(most_in_all=3)
        for key in "ab":
            first = of(key)
            stage.order.admit([first])
            await stage.end(first, Outcome.RETRY)
        stage.order.admit([of("a"), of("a"), of("b")])
        assert stage.given_up == 0
        stage.order.admit([of("b")])
        assert stage.given_up == 1

    run(play)


def test_after_its_time_a_key_is_given_up_whether_its_first_is_away_or_in_hand() -> None:
    async def play() -> None:
        stage = Stage(longest_seconds=0.02)
        away, in_hand, late, later = of("a"), of("b"), of("a"), of("b")
        stage.order.admit([away, in_hand, late])
        await stage.end(away, Outcome.RETRY)
        await eventually_async(lambda: stage.begun == [late])
        await asyncio.sleep(0.03)
        stage.order.admit([later])
        await asyncio.sleep(0)
        assert (stage.begun, stage.given_up) == ([late, later], 2)
        await stage.end(later)
        await stage.end(in_hand)
        assert stage.order.admit([new := of("b")]) == [new]

    run(play)


def test_after_the_end_nothing_held_begins() -> None:
    async def play() -> None:
        stage = Stage()
        a1, a2 = of("a"), of("a")
        stage.order.admit([a1, a2])
        stage.order.end()
        await stage.end(a1)
        assert (stage.begun, stage.order.begun) == ([], 0)

    run(play)
