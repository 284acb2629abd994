"""A broker that takes less than a message has: the message is told apart, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.services.services import private_broker
from tests.support.amqp import connected, drained, fill, publishing
from worker.ports import Confirmation, Outgoing
from worker.rabbit.errors import AccessRefused
from worker.rabbit.probing import try_publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from worker.rabbit.connection import Connection

LIMIT = 100_000
CLASSIC = {"x-queue-type": "classic"}


@pytest.fixture(scope="module")
def narrow(rabbitmq_root: Path | None) -> Iterator[LocalBroker]:
    with private_broker(
        chroot=rabbitmq_root, configuration=[f"max_message_size = {LIMIT}"], say=lambda _line: None
    ) as broker:
        yield broker


@pytest.fixture
def url(narrow: LocalBroker, request: pytest.FixtureRequest) -> str:
    url = narrow.create_vhost(request.node.name)
    fill(url, "q", arguments=CLASSIC)
    return url


def sized(message_id: str, size: int) -> Outgoing:
    return Outgoing("", "q", message_id, b"x" * size)


async def test_a_message_the_broker_is_too_narrow_for_touches_no_neighbour(url: str) -> None:
    sizes = [10, 200, LIMIT + 1, 300, LIMIT, 90_000, LIMIT * 3, 5]
    async with publishing(url) as (connection, publisher):
        windows = [[sized(f"{window}-{n}", size) for n, size in enumerate(sizes)] for window in range(5)]
        for window, found in zip(windows, await asyncio.gather(*map(publisher.publish, windows)), strict=True):
            expected = [Confirmation.TOO_LARGE if len(one.body) > LIMIT else Confirmation.CONFIRMED for one in window]
            assert found == expected
        assert connection.is_open
        assert not publisher.closed.done()
        assert len(publisher._pending) == 0
    arrived = [properties.message_id for _, properties, _ in drained(url, "q")]
    assert sorted(arrived) == sorted(one.message_id for window in windows for one in window if len(one.body) <= LIMIT)
    for number in range(5):
        of_window = [message_id for message_id in arrived if message_id.startswith(f"{number}-")]
        assert of_window == sorted(of_window), "in their order"


async def test_what_the_broker_refused_once_is_not_sent_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing(url) as (_, publisher):
        asked: list[int] = []

        async def counted(connection: Connection, exchange: str, *, size: int) -> None:
            asked.append(size)
            await try_publish(connection, exchange, size=size)

        monkeypatch.setattr("worker.rabbit.probing.try_publish", counted)
        for size in (LIMIT + 1, LIMIT + 2, LIMIT * 2, LIMIT + 1):
            assert await publisher.publish([sized("m", size)]) == [Confirmation.TOO_LARGE]
        assert await publisher.publish([sized("m", LIMIT)]) == [Confirmation.CONFIRMED]
    assert sum(size > LIMIT for size in asked) == 1


async def test_ordinary_messages_ask_once_for_each_doubling(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url) as (_, publisher):
        asked: list[int] = []

        async def counted(connection: Connection, exchange: str, *, size: int) -> None:
            asked.append(size)
            await try_publish(connection, exchange, size=size)

        monkeypatch.setattr("worker.rabbit.probing.try_publish", counted)
        messages = [sized(f"m-{n}", n * 1000) for n in range(300)]
        assert set(await publisher.publish(messages)) == {Confirmation.CONFIRMED}
        assert len(asked) == 4, "64, 128, 256 and 512 KiB"
        assert set(await publisher.publish(messages)) == {Confirmation.CONFIRMED}
        assert len(asked) == 4


async def test_a_connection_that_ends_while_the_size_is_asked_leaves_the_message_unknown(url: str) -> None:
    async with publishing(url) as (connection, publisher):
        publish = asyncio.create_task(publisher.publish([sized("a", 10), sized("b", LIMIT * 2)]))
        await asyncio.sleep(0)
        await connection.close()
        assert Confirmation.UNKNOWN in await asyncio.wait_for(publish, 10)


async def test_a_probe_is_checked_and_goes_nowhere(narrow: LocalBroker, url: str) -> None:
    vhost = url.rpartition("/")[2]
    modest = narrow.create_user("modest", "pw", configure="^$", write="^allowed$", read="^$", vhost=vhost)
    narrow.management.request("PUT", f"/exchanges/{vhost}/allowed", {"type": "fanout", "durable": True})
    narrow.management.request("POST", f"/bindings/{vhost}/e/allowed/q/q", {})
    async with connected(modest) as connection:
        await try_publish(connection, "allowed")
        with pytest.raises(AccessRefused):
            await try_publish(connection, "")
    async with connected(url) as connection:
        await try_publish(connection, "allowed", size=LIMIT)
    assert drained(url, "q") == []
