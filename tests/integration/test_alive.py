"""A node that is frozen is left for another; one that is only quiet, busy or blocked is not."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.services.proxy import Proxy
from tests.support.amqp import connected
from worker.flow.tasks import cancel_and_wait
from worker.rabbit.alive import NodeWatch, Patience
from worker.rabbit.errors import NodeSilent

QUICK = Patience(quiet=0.2, answer=0.3, opening=0.5)


async def test_a_node_that_answers_nothing_and_takes_no_connection_is_left(vhost_url: str) -> None:
    parts = urlsplit(vhost_url)
    async with Proxy(parts.port or 5672) as network:
        url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{network.port}").geturl()
        async with connected(url) as connection:
            left: list[str] = []
            watch = asyncio.create_task(NodeWatch(connection, patience=QUICK, on_silent=left.append).run())
            await asyncio.sleep(1.5)
            assert connection.is_open, "it is only quiet, and answers"
            network.black_hole(on=True)
            await asyncio.wait_for(watch, 10)
            reason = connection.closed.result()
            assert isinstance(reason, NodeSilent)
            assert str(reason).startswith(f"127.0.0.1:{network.port} answers nothing"), "and no password"
            assert left == [url]
            network.black_hole(on=False)


@pytest.mark.parametrize("why", ["blocked", "paused"])
async def test_a_node_that_cannot_be_heard_for_our_own_or_the_brokers_reasons_is_not_left(
    vhost_url: str, why: str
) -> None:
    parts = urlsplit(vhost_url)
    async with Proxy(parts.port or 5672) as network:
        url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{network.port}").geturl()
        async with connected(url, max_bytes_in_hand=10) as connection:
            watch = asyncio.create_task(NodeWatch(connection, patience=QUICK).run())
            await asyncio.sleep(0.1)
            if why == "blocked":
                connection.blocked_reason = "low on memory"
            else:
                connection.hold(10)
            network.black_hole(on=True)
            await asyncio.wait([watch], timeout=2)
            assert connection.is_open
            await cancel_and_wait([watch])
            network.black_hole(on=False)
            connection.release(10 if why == "paused" else 0)
            connection.blocked_reason = None
