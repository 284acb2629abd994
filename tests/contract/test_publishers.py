"""What a publisher promises, held against the real one and the fake of the pipeline's tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.amqp import cut, drained, plain, publishing
from tests.support.eventually import eventually_async
from tests.support.fakes import FakePublisher
from worker.ports import Confirmation, EventPublisher, Outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    OpenRig = Callable[[], AbstractAsyncContextManager["Rig"]]

FULL = {"x-queue-type": "quorum", "x-max-length": 0, "x-overflow": "reject-publish"}
BOUND = {"x-queue-type": "classic"}


class Rig:
    """A publisher, a queue `there` that takes all, a queue `full` that refuses all, and no queue `nowhere`."""

    def __init__(
        self, publisher: EventPublisher, lose: Callable[[], object], received: Callable[[], Sequence[bytes]]
    ) -> None:
        self.publisher, self.lose, self.received = publisher, lose, received


@asynccontextmanager
async def with_fake() -> AsyncIterator[Rig]:
    publisher = FakePublisher()
    publisher.full.add("full")
    publisher.unbound.add("nowhere")
    yield Rig(
        publisher,
        lambda: setattr(publisher, "lost", True),
        lambda: [one.body for one in publisher.taken if one.routing_key == "there"],
    )


@pytest.fixture(params=["real", "fake"])
def rig(request: pytest.FixtureRequest) -> OpenRig:
    """Return how to open the publisher under test."""
    if request.param == "fake":
        return with_fake
    url = request.getfixturevalue("vhost_url")

    @asynccontextmanager
    async def with_real() -> AsyncIterator[Rig]:
        with plain(url) as channel:
            channel.queue_declare("there", durable=True, arguments=BOUND)
            channel.queue_declare("full", durable=True, arguments=FULL)
        async with publishing(url) as (connection, publisher):
            # A queue of length 0 refuses once it has noticed that it is full.
            await eventually_async(lambda: refuses(publisher))
            yield Rig(publisher, lambda: cut(connection), lambda: [body for *_, body in drained(url, "there")])

    return with_real


async def refuses(publisher: EventPublisher) -> bool:
    return await publisher.publish([outgoing("full", "primer")]) == [Confirmation.NACKED]


def outgoing(key: str, message_id: str, body: bytes = b"{}") -> Outgoing:
    return Outgoing("", key, message_id, body, headers={"a": 1})


async def test_nothing_to_publish_is_done_at_once(rig: OpenRig) -> None:
    async with rig() as one:
        assert await one.publisher.publish([]) == []


async def test_receipts_come_in_the_order_of_the_messages(rig: OpenRig) -> None:
    keys = ["there", "nowhere", "full", "there", "full", "nowhere", "there"] * 3
    expected = {"there": Confirmation.CONFIRMED, "nowhere": Confirmation.RETURNED, "full": Confirmation.NACKED}
    async with rig() as one:
        confirmations = await one.publisher.publish([outgoing(key, f"m-{index}") for index, key in enumerate(keys)])
        assert confirmations == [expected[key] for key in keys]


async def test_one_id_twice_in_one_window_has_two_receipts_of_its_own(rig: OpenRig) -> None:
    keys = ["there", "nowhere", "there", "nowhere", "nowhere", "there"]
    async with rig() as one:
        confirmations = await one.publisher.publish([outgoing(key, "same", key.encode()) for key in keys])
        assert [receipt is Confirmation.RETURNED for receipt in confirmations] == [key == "nowhere" for key in keys]
        assert one.received() == [b"there"] * 3


async def test_windows_at_the_same_time_do_not_mix(rig: OpenRig) -> None:
    async with rig() as one:
        windows = [[outgoing("there" if n % 3 else "nowhere", f"m-{n}") for n in range(w, w + 50)] for w in range(20)]
        for window, confirmations in zip(
            windows, await asyncio.gather(*map(one.publisher.publish, windows)), strict=True
        ):
            assert [receipt is Confirmation.RETURNED for receipt in confirmations] == [
                message.routing_key == "nowhere" for message in window
            ]


async def test_after_the_connection_is_lost_every_effect_is_unknown_and_nothing_raises(rig: OpenRig) -> None:
    async with rig() as one:
        one.lose()
        assert (
            await one.publisher.publish([outgoing("there", "a"), outgoing("nowhere", "b")])
            == [Confirmation.UNKNOWN] * 2
        )
        assert await one.publisher.publish([outgoing("there", "a")]) == [Confirmation.UNKNOWN]


async def test_bodies_and_order_are_kept(rig: OpenRig) -> None:
    bodies = [b"", b"x", b"y" * 300_000, *(str(number).encode() for number in range(500))]
    async with rig() as one:
        confirmations = await one.publisher.publish(
            [outgoing("there", f"m-{n}", body) for n, body in enumerate(bodies)]
        )
        assert set(confirmations) == {Confirmation.CONFIRMED}
        assert one.received() == bodies
