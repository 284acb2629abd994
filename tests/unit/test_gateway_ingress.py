"""What the gateway says of a message that was never sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.flow.outage import Outage
from worker.flow.reconnecting import Reconnecting
from worker.ports import Confirmation, Outgoing
from worker.settings import load_settings
from worker.web.gateway.ingress import Ingress, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.rabbit.outstanding import Settling


class Open:
    """A connection that nothing blocks."""

    blocked_reason = None


def made() -> Any:
    """Return an ingress that was never connected."""
    outage = Outage("broker", address="a", reporter=RecordingReporter(), clock=FakeClock())
    return Ingress(load_settings(), outage=outage, reconnecting=Reconnecting(random=lambda: 1.0))


async def test_a_message_whose_connection_ends_before_it_is_sent_is_known_not_to_be_sent() -> None:
    ingress = made()
    ingress._publisher, ingress._connection = object(), Open()
    publishing = asyncio.create_task(ingress.publish(Outgoing("e", "k", "id", b"{}")))
    await asyncio.sleep(0)
    ingress._publisher = ingress._connection = None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await publishing
    assert ingress.in_flight == 0


class Broken:
    """A publisher that meets a bug after it sent the first of two."""

    def publish_now(self, _: Sequence[Outgoing], window: Settling) -> bool:
        window.settle(0, 1, Confirmation.CONFIRMED)
        raise ValueError


async def test_a_bug_while_publishing_leaves_no_request_without_an_answer() -> None:
    bugs: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context["exception"]))
    ingress = made()
    ingress._publisher, ingress._connection = Broken(), Open()
    message = Outgoing("e", "k", "id", b"{}")
    answers = list(await asyncio.gather(ingress.publish(message), ingress.publish(message)))
    assert answers == [Confirmation.CONFIRMED, Confirmation.UNKNOWN]
    assert (ingress.in_flight, [type(bug) for bug in bugs]) == (0, [ValueError])


class Silent:
    """A publisher whose broker confirms nothing."""

    def __init__(self) -> None:
        self.windows: list[Settling] = []

    def publish_now(self, _: Sequence[Outgoing], window: Settling) -> bool:
        self.windows.append(window)
        return True


async def test_each_request_waits_its_own_time_for_the_broker_and_counts_until_it_is_confirmed() -> None:
    ingress, publisher, loop = made(), Silent(), asyncio.get_running_loop()
    ingress._publisher, ingress._connection = publisher, Open()
    ingress._deadlines._seconds = 0.1
    message = Outgoing("e", "k", "id", b"{}")

    async def waited() -> float:
        began = loop.time()
        assert await ingress.publish(message) is Confirmation.UNKNOWN
        return loop.time() - began

    first = asyncio.create_task(waited())
    await asyncio.sleep(0.05)
    second = asyncio.create_task(waited())
    assert min(await first, await second) >= 0.09
    assert ingress.in_flight == 2
    for window in publisher.windows:
        window.settle(0, 1, Confirmation.CONFIRMED)
    assert ingress.in_flight == 0
