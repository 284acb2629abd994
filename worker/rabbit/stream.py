"""Reading a stream from a time or a message on, to where it ends now. Nothing is taken from it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from worker.desk.journal import StreamEnds, StreamMessage
from worker.rabbit.errors import NOT_FOUND, ChannelClosed
from worker.rabbit.frames import encode_ack
from worker.rabbit.probing import fresh_channel
from worker.rabbit.properties import decode_properties

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.rabbit.connection import Channel, Connection

_PREFETCH = 200
_BEGIN_SECONDS = 2.0
"""Silence after which nothing is there to be read: a broker begins within milliseconds."""
_EMPTY_SECONDS = 0.3
"""The same where the broker counts nothing."""
_STALL_SECONDS = 15.0
"""Silence in the middle of a stream after which reading ends early."""
_END_SECONDS = 0.2
"""Silence behind the last message known, after which the end is reached."""
_CATCH_UP_SECONDS = 1.0
"""How long to follow a stream that grows meanwhile."""


class Stream:
    """One stream of the broker. Every method raises `BrokerError`; `ChannelClosed` with 404 when it does not exist."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Read *name* through channels of *connection*."""
        self._connection = connection
        self._name = name

    async def ends(self) -> StreamEnds | None:
        """Return the first and the last message known, or None for an empty stream.

        The last is the first one of the newest chunk: a few more may follow it.
        """
        async with fresh_channel(self._connection) as channel:
            counted = (await channel.call("queue_declare", self._name, passive=True)).message_count
        # The count may lag behind: a stream that has just been written to counts none, but delivers at once.
        last = await self._one("last", _BEGIN_SECONDS if counted else _EMPTY_SECONDS)
        first = None if last is None else await self._one("first", _BEGIN_SECONDS)
        return None if first is None or last is None else StreamEnds(first, last)

    async def read(
        self, *, since_ms: int | None = None, offset: int | None = None, last: int
    ) -> AsyncIterator[Sequence[StreamMessage]]:
        """Yield what the stream holds, oldest first, in the pieces in which it comes.

        Begins at *offset*, or else up to a minute before *since_ms* (epoch ms; None: at the first). Ends behind the
        message with the offset *last* when nothing more comes, or after a second more.
        """
        is_from_first = since_ms is None or since_ms <= 0
        start = "first" if is_from_first else datetime.fromtimestamp((since_ms or 0) / 1000, UTC)
        reached, patience, deadline = -1, _BEGIN_SECONDS, float("inf")
        async with self._consuming(start if offset is None else offset) as arrivals:
            while time.monotonic() < deadline and (messages := await arrivals.take(patience)):
                reached = messages[-1].offset
                yield messages
                patience = _STALL_SECONDS
                if reached >= last:
                    patience = _END_SECONDS
                    deadline = min(deadline, time.monotonic() + _CATCH_UP_SECONDS)

    async def _one(self, where: str, patience: float) -> StreamMessage | None:
        async with self._consuming(where, prefetch=1) as arrivals:
            messages = await arrivals.take(patience)
        return messages[0] if messages else None

    @asynccontextmanager
    async def _consuming(self, start: str | int | datetime, prefetch: int = _PREFETCH) -> AsyncIterator[_Arrivals]:
        channel = await self._connection.channel()
        arrivals = _Arrivals(self._connection, channel)
        number = channel.raw.channel_number
        self._connection.raw.attach(number, arrivals)
        try:
            await channel.call("basic_qos", prefetch_count=prefetch)
            await channel.call("basic_consume", self._name, _ignored, arguments={"x-stream-offset": start})
            yield arrivals
        finally:
            await channel.close()
            self._connection.raw.detach(number)


class _Arrivals:
    """Keeps what the broker delivers until it is taken, which asks for as much again."""

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._messages: list[StreamMessage] = []
        self._tag = 0
        self._offset = -1
        self._arrival = asyncio.Event()
        self._cancelled = False
        channel.raw.add_on_cancel_callback(lambda _: self._on_cancelled())
        channel.closed.add_done_callback(lambda _: self._arrival.set())

    async def take(self, seconds: float) -> Sequence[StreamMessage]:
        """Return what has come, waiting for it; nothing after *seconds* of silence. Raises `BrokerError`."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrival.wait()
        except TimeoutError:
            return ()
        self._arrival.clear()
        messages, self._messages = self._messages, []
        if messages:
            self._connection.raw.send([encode_ack(self._channel.raw.channel_number, self._tag, multiple=True)])
        elif self._channel.closed.done():
            raise self._channel.closed.result()
        elif self._cancelled:
            raise ChannelClosed(NOT_FOUND, "the stream was deleted, or its leader is gone, while it was read")
        return messages

    def _on_cancelled(self) -> None:
        self._cancelled = True
        self._arrival.set()

    def on_deliver(
        self,
        tag: int,
        redelivered: bool,  # noqa: ARG002, FBT001 - fixed by Sink
        exchange: str,  # noqa: ARG002
        routing_key: str,  # noqa: ARG002
        properties: bytes,
        body: bytes,
    ) -> None:
        """Keep a message. What is damaged in its properties is left out."""
        read = decode_properties(properties)
        offset = read.headers.get("x-stream-offset")
        self._offset = offset if isinstance(offset, int) else self._offset + 1
        self._tag = tag
        self._messages.append(StreamMessage(self._offset, body, read.content_encoding or "", read.timestamp))

    def on_read(self) -> None:
        """Wake whoever waits."""
        if self._messages:
            self._arrival.set()

    def on_return(self, *_: object) -> None:
        """Never called: nothing is published here."""

    def on_confirm(self, *_: object) -> None:
        """Never called: the channel is not in confirm mode."""


def _ignored(*_: object) -> None:
    """Never called: the channel's deliveries go to `_Arrivals`."""
