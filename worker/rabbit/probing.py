"""Finding out what the broker lets us do, without leaving anything behind.

RabbitMQ checks the size of a message, the write right and the exchange when a message arrives, in that order. Inside a
transaction it routes the message only at the commit: one that is rolled back was checked, and was never anywhere.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pika

from worker.rabbit.errors import PRECONDITION_FAILED, AccessRefused, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.rabbit.connection import Channel, Connection

_SMALLEST_PROBE = 64 * 1024
_TOO_LARGE = re.compile(r"larger than (?:configured )?max size (\d+)")


@asynccontextmanager
async def fresh_channel(connection: Connection) -> AsyncIterator[Channel]:
    """Yield one AMQP channel and close it: what the broker refuses costs the channel it was asked on."""
    channel = await connection.channel()
    try:
        yield channel
    finally:
        await channel.close()


async def try_publish(connection: Connection, exchange: str, *, size: int = 0, user_id: str | None = None) -> None:
    """Have the broker check a publish of *size* bytes to *exchange* in the name of *user_id*, which is rolled back.

    Raises `AccessRefused` or `ChannelClosed` with what the broker says against it.
    """
    async with fresh_channel(connection) as channel:
        await channel.call("tx_select")
        channel.raw.basic_publish(exchange, "", bytes(size), pika.BasicProperties(user_id=user_id))
        await channel.call("tx_rollback")


async def try_consume(connection: Connection, queue: str) -> None:
    """Have the broker check our right to read *queue*, without taking anything from it.

    It checks the right first and the arguments next, and refuses ours. Raises `AccessRefused` without the right.
    """
    try:
        async with fresh_channel(connection) as channel:
            await channel.call("basic_consume", queue, _ignored, arguments={"x-priority": "rights are checked first"})
    except ChannelClosed as error:
        if error.reply_code != PRECONDITION_FAILED:
            raise


async def try_configure(connection: Connection, name: str) -> None:
    """Have the broker check our right to create and delete what is named so; no exchange may be: it deletes nothing."""
    async with fresh_channel(connection) as channel:
        await channel.call("exchange_delete", name)


async def try_bind(connection: Connection, exchange: str, to: str) -> None:
    """Have the broker check our rights to bind *exchange*, which must not exist, to another: it unbinds nothing."""
    async with fresh_channel(connection) as channel:
        await channel.call("exchange_unbind", exchange, to)


def _ignored(*_: object) -> None:
    """Never called: nothing is consumed."""


class SizeLimit:
    """Learns how large a message this connection's broker takes, before a larger one costs a channel its confirms."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known = False
        self._learning = asyncio.Lock()
        self.proven = 0
        """Bytes that the broker is known to take."""

    async def admits(self, exchange: str, size: int) -> bool:
        """Return whether the broker takes a body of *size* bytes; ask it when that is not known.

        Whatever else it has against the exchange is left to the publish itself. Raises `BrokerError` when the
        connection ends.
        """
        async with self._learning:
            if size > self.proven and not self._known:
                await self._learn(exchange, size)
        return size <= self.proven

    async def _learn(self, exchange: str, size: int) -> None:
        """Ask for the next power of two, so that sizes that grow slowly are not asked for one by one."""
        probe = max(_SMALLEST_PROBE, 1 << (size - 1).bit_length())
        try:
            await try_publish(self._connection, exchange, size=probe)
        except (ChannelClosed, AccessRefused) as error:
            limit = _limit(error)
            if limit is not None:
                self.proven, self._known = limit, True
                return
        self.proven = probe


def _limit(error: ChannelClosed | AccessRefused) -> int | None:
    if not isinstance(error, ChannelClosed) or error.reply_code != PRECONDITION_FAILED:
        return None
    found = _TOO_LARGE.search(error.reply_text)
    return int(found[1]) if found else None
