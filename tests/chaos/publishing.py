"""The publisher of the harness: plain pika, confirms pipelined, what stays unknown is published again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

if TYPE_CHECKING:
    from tests.chaos.ledger import Ledger
    from tests.chaos.messages import Sample

_WINDOW = 200
_RECONNECT_SECONDS = 0.3
_OPEN_TIMEOUT_SECONDS = 15.0
_DEPTH_SECONDS = 0.5
_HUGE = 16 * 1024 * 1024
_REFUSED_SECONDS = 4.0
_SILENCE_SECONDS = 20.0
"""Confirms that stay out so long are given up with their connection."""


class Publisher:
    """Publishes through a ledger for as long as `run` runs, over any number of connections."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._addresses = Addresses(url)
        self._ledger = ledger
        self._todo: deque[Sample] = deque()
        self._outstanding: dict[int, Sample] = {}
        self._channel: Any = None
        self._next_tag = 1
        self._change = asyncio.Event()
        self._turn = asyncio.Lock()
        self._lost = asyncio.Event()
        self.ingress_depth = 0
        """Messages ready in the ingress queue, as the broker said a moment ago."""
        self._refused_at: float | None = None
        self._held = False
        self.largest: int | None = None
        """Bytes of a body above which it waits, because the broker would close the channel; None: none waits."""
        self.last_error = ""
        self.connections = 0
        """How many connections it needed."""

    @property
    def unfinished(self) -> int:
        """Messages not confirmed yet."""
        return len(self._todo) + len(self._outstanding)

    async def publish(self, sample: Sample) -> None:
        """Enter a message into the ledger and publish it; waits while too many are unconfirmed."""
        self._ledger.expect(sample)  # before anything else gets a turn: numbers are entered in order
        async with self._turn:  # whoever came first publishes first
            while self.unfinished >= _WINDOW:
                self._change.clear()
                await self._change.wait()
            self._todo.append(sample)
            self._send()

    def hold(self) -> None:
        """Hand nothing more to the broker, but take messages until too many wait."""
        self._held = True

    def release(self) -> None:
        """Go on."""
        self._held = False
        self._send()

    async def flushed(self) -> None:
        """Wait until everything is confirmed."""
        while self.unfinished:
            self._change.clear()
            await self._change.wait()

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            connection = None
            try:
                connection = await self._connect()
                await self._until_lost()
            except Exception as error:  # noqa: BLE001 - pika raises all sorts of things on broken connections
                self.last_error = repr(error)
            finally:
                self._channel = None
                # Unknown is neither success nor failure: published again, and the ledger counts it.
                self._ledger.lost_their_place(self._outstanding.values())
                self._todo.extendleft(reversed(self._outstanding.values()))
                self._outstanding.clear()
                if connection is not None:
                    abandon(connection)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self) -> AsyncioConnection:
        connection, self._lost = await open_connection(self._addresses.next())
        lost = self._lost
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel = connection.channel(on_open_callback=lambda channel: resolve(opened, channel))
        channel.add_on_close_callback(lambda *_: lost.set())
        async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS):
            await opened
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm)
        self.connections += 1
        self._next_tag = 1
        self._refused_at = None
        self._channel = channel
        self._send()
        return connection

    async def _until_lost(self) -> None:
        """Return when the connection ended, when confirms stay out, or when the broker keeps refusing.

        It does that on an old AMQP channel even when the queue is no longer full; see README.md.
        """
        loop = asyncio.get_running_loop()
        progress, since = self._progress(), loop.time()
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError, pika.exceptions.AMQPError):
                self._channel.queue_declare("cim.ingress", passive=True, callback=self._on_depth)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEPTH_SECONDS):
                    await self._lost.wait()
            if progress != self._progress() or not self._outstanding:
                progress, since = self._progress(), loop.time()
            is_refused = self._refused_at is not None and loop.time() > self._refused_at + _REFUSED_SECONDS
            if is_refused or loop.time() > since + _SILENCE_SECONDS:
                return

    def _progress(self) -> tuple[int, int]:
        return self._next_tag, len(self._outstanding)

    def _send(self) -> None:
        too_large: list[Sample] = []
        while self._todo and not self._held and self._channel is not None and self._channel.is_open:
            sample = self._todo.popleft()
            if self.largest is not None and len(sample.body) > self.largest:
                too_large.append(sample)
                continue
            self._outstanding[self._next_tag] = sample
            self._next_tag += 1
            self._ledger.handed_over(sample)
            properties = pika.BasicProperties(
                delivery_mode=2,
                content_type="application/json",
                message_id=f"{self._ledger.run}-{sample.number}" if sample.number % 3 or _is_huge(sample) else None,
                headers=sample.headers or None,
            )
            try:
                self._channel.basic_publish(
                    sample.exchange, sample.routing_key, sample.body, properties, mandatory=True
                )
            except pika.exceptions.AMQPError:
                self._lost.set()
        self._todo.extend(too_large)  # until there is a connection with another limit

    def _on_return(self, _: object, method: Any, properties: Any, __: bytes) -> None:
        self._ledger.findings.add("the harness published to nowhere", f"{method.routing_key}: {properties.message_id}")

    def _on_depth(self, frame: Any) -> None:
        self.ingress_depth = frame.method.message_count

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        positive = isinstance(method, pika.spec.Basic.Ack)
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._outstanding if tag <= method.delivery_tag]
        for tag in tags:
            sample = self._outstanding.pop(tag, None)
            if sample is not None and positive:
                self._ledger.confirmed[sample.number] = 1
            elif sample is not None:
                self._ledger.refused(sample)
                self._refused_at = self._refused_at or asyncio.get_running_loop().time()
                self._todo.append(sample)
                asyncio.get_running_loop().call_later(_RECONNECT_SECONDS, self._send)
        self._change.set()


def _is_huge(sample: Sample) -> bool:
    """Tell whether no document can hold the body: then the letter can only be found by its message id."""
    return len(sample.body) > _HUGE


class Addresses:
    """The nodes of a broker, comma separated, in turn: each attempt goes to the next one."""

    def __init__(self, urls: str) -> None:
        self._all = [pika.URLParameters(url) for url in urls.split(",")]
        for parameters in self._all:
            parameters.heartbeat = 30
        self._number = -1

    def next(self) -> pika.URLParameters:
        """Return where to connect now."""
        self._number += 1
        return self._all[self._number % len(self._all)]


async def open_connection(parameters: pika.URLParameters) -> tuple[AsyncioConnection, asyncio.Event]:
    """Open a connection; the event is set when it ends. Raises OSError or TimeoutError."""
    lost = asyncio.Event()
    opened: asyncio.Future[AsyncioConnection] = asyncio.get_running_loop().create_future()

    def failed(_: object, error: object) -> None:
        if not opened.done():
            opened.set_exception(OSError(str(error)))

    connection = AsyncioConnection(
        parameters,
        on_open_callback=lambda connection: resolve(opened, connection),
        on_open_error_callback=failed,
        on_close_callback=lambda *_: lost.set(),
    )
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS):
            return await opened, lost
    except BaseException:
        abandon(connection)
        raise


def resolve(future: asyncio.Future[Any], value: object) -> None:
    """Set the result of a future that nobody may be waiting for any more."""
    if not future.done():
        future.set_result(value)


def abandon(connection: AsyncioConnection) -> None:
    """End a connection at once, whatever state it is in."""
    with contextlib.suppress(Exception):
        connection._terminate_stream(ConnectionAbortedError("abandoned"))
