"""The gateway's queue of receipts on a real broker."""

from __future__ import annotations

from tests.support.amqp import connected
from worker.web.gateway.receipts import Receipts


async def test_the_broker_may_still_take_the_connection_before_for_alive(vhost_url: str) -> None:
    """Then the exclusive queue of that connection is locked, and the next one needs another."""
    receipts = Receipts()
    async with connected(vhost_url) as lost, connected(vhost_url) as fresh:
        await receipts.attach(lost)
        first = receipts.reply_to
        await receipts.attach(fresh)
        assert receipts.reply_to not in {None, first}
