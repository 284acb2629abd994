"""The adapter under test opened on a broker, and a plain pika client beside it that sees what really happened."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pika

from tests.support.eventually import eventually
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUORUM = {"x-queue-type": "quorum"}
Channel = Any
"""pika publishes no types."""


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Connection]:
    connection = await Connection.open(url, name="test", **options)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def publishing(url: str, **options: Any) -> AsyncIterator[tuple[Connection, Publisher]]:
    async with connected(url) as connection:
        yield connection, await Publisher.open(connection, **options)


@asynccontextmanager
async def consuming(url: str, queue: str, prefetch: int = 100) -> AsyncIterator[tuple[Connection, Consumer]]:
    async with connected(url) as connection:
        consumer = await Consumer.open(connection, queue, time.monotonic)
        await consumer.start(prefetch)
        yield connection, consumer


def cut(connection: Connection) -> None:
    """Cut the TCP connection without a farewell."""
    connection.raw._transport._sock.shutdown(socket.SHUT_RDWR)


async def taken(consumer: Consumer, count: int) -> list[Any]:
    """Return *count* deliveries; wait for them."""
    await consumer.wait_for(count, 20)
    deliveries = consumer.take(count, 1 << 40)
    assert len(deliveries) == count
    return deliveries


@contextmanager
def plain(url: str) -> Iterator[Channel]:
    """Yield a channel of a plain pika client, in confirm mode."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def fill(url: str, queue: str, *bodies: bytes, arguments: dict[str, Any] | None = None, **properties: Any) -> None:
    """Declare a durable queue and put messages into it."""
    with plain(url) as channel:
        channel.queue_declare(queue, durable=True, arguments=arguments or QUORUM)
        for body in bodies:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))


def depth(url: str, queue: str) -> int:
    """Return how many messages are ready in a queue."""
    with plain(url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def drained(url: str, queue: str) -> list[tuple[Any, Any, bytes]]:
    """Take everything that is ready in a queue."""
    found: list[tuple[Any, Any, bytes]] = []
    with plain(url) as channel:
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((method, properties, body))


def gathered(url: str, queue: str, count: int, seconds: float = 30) -> list[tuple[Any, Any, bytes]]:
    """Return *count* messages of a queue; wait for them."""
    found: list[tuple[Any, Any, bytes]] = []

    def enough() -> bool:
        found.extend(drained(url, queue))
        return len(found) >= count

    eventually(enough, f"{count} messages in {queue}", seconds)
    return found
