"""The exchange of each conversation: it exists and is bound to the hub while the conversation is active."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pika.exceptions

from worker.codes import Code
from worker.contract import HUB, RECONCILER, conversation_exchange
from worker.failure import Failure
from worker.rabbit.consumer import Consumer
from worker.rabbit.errors import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    BrokerError,
    BrokerUnreachable,
    ChannelClosed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from worker.rabbit.connection import Channel, Connection

    _Operation = Callable[[Channel, str], Awaitable[None]]

_CHANNELS = 24
"""AMQP channels used at once. The broker works on each by itself, and a refusal costs one channel and nobody else."""


class ConversationExchanges:
    """Opens, unbinds and deletes conversation exchanges. Every method is idempotent.

    Needs configure permission on `conversation.*`, unlike the hot path, and so uses channels of its own, which are
    renewed after a refusal. Each conversation gets an answer of its own: None, or what went wrong. Nothing is raised.
    """

    def __init__(self, connection: Connection, *, channels: int = _CHANNELS) -> None:
        """Use at most *channels* AMQP channels of *connection* at once."""
        self._connection = connection
        self._most = channels
        self._idle: list[Channel] = []

    async def open(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Declare the exchanges and bind them to the hub."""
        return await self._each(_open, conversation_ids)

    async def unbind(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Take the exchanges off the hub: new activities come back as returned and go to the store.

        The exchanges and the subscribers' queues stay, so that what was routed a moment ago is still read.
        """
        return await self._each(_unbind, conversation_ids)

    async def delete(self, conversation_ids: Sequence[str]) -> list[Failure | None]:
        """Delete the exchanges that are ours; deleting a missing one is fine."""
        return await self._each(_delete, conversation_ids)

    async def _each(self, operation: _Operation, conversation_ids: Sequence[str]) -> list[Failure | None]:
        results: list[Failure | None] = [None] * len(conversation_ids)
        waiting = iter(enumerate(conversation_ids))
        try:
            channels = await self._channels(min(self._most, len(conversation_ids)))
        except BrokerError as error:
            return [error.failure] * len(conversation_ids)
        await asyncio.gather(*(self._work(channel, operation, waiting, results) for channel in channels))
        return results

    async def _channels(self, count: int) -> list[Channel]:
        """Return *count* channels that nobody else uses, or as many as the broker allows, but at least one."""
        channels = [self._idle.pop() for _ in range(min(count, len(self._idle)))]
        while len(channels) < count:
            try:
                channels.append(await self._connection.channel())
            except pika.exceptions.NoFreeChannels:
                if not channels:
                    msg = "the broker allows no more channels on this connection"
                    raise BrokerUnreachable(msg) from None
                break
        return channels

    async def _work(
        self,
        channel: Channel,
        operation: _Operation,
        waiting: Iterable[tuple[int, str]],
        results: list[Failure | None],
    ) -> None:
        for index, conversation_id in waiting:
            try:
                if channel.closed.done():
                    channel = await self._connection.channel()
                await operation(channel, conversation_id)
            except BrokerError as error:
                results[index] = _failure(error)
        if not channel.closed.done():
            self._idle.append(channel)


class ReconcilerSeat:
    """The exclusive queue `cim.reconciler`: whoever declared it first holds it, until his connection ends."""

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock
        self._questions: Consumer | None = None

    async def take(self) -> bool:
        """Take the seat if it is free; tell whether we hold it. Raises `BrokerError`."""
        channel = await self._connection.channel()
        try:
            await channel.call("queue_declare", RECONCILER, exclusive=True)
        except ChannelClosed as error:
            if error.reply_code != RESOURCE_LOCKED:
                raise
            return False
        await channel.close()
        self._questions = await Consumer.open(self._connection, RECONCILER, self._clock)
        await self._questions.start(1)
        return True

    async def wait(self, seconds: float) -> bool:
        """Wait until somebody asks for a comparison, or *seconds* have passed; tell whether we still hold the seat."""
        if self._questions is None:
            return False
        await self._questions.wait_for(1, seconds)
        for question in self._questions.take(1, 1):
            self._questions.settle(question)
        return not self._questions.cancelled.is_set()


async def _open(channel: Channel, conversation_id: str) -> None:
    exchange = conversation_exchange(conversation_id)
    await channel.call("exchange_declare", exchange, "fanout", durable=True)
    await channel.call("exchange_bind", exchange, HUB, routing_key=conversation_id)


async def _unbind(channel: Channel, conversation_id: str) -> None:
    try:
        await channel.call("exchange_unbind", conversation_exchange(conversation_id), HUB, routing_key=conversation_id)
    except ChannelClosed as error:
        if error.reply_code != NOT_FOUND:  # what is missing is not bound
            raise


async def _delete(channel: Channel, conversation_id: str) -> None:
    # Declaring is how AMQP compares: an exchange that was there before us with another type is not ours to delete.
    exchange = conversation_exchange(conversation_id)
    await channel.call("exchange_declare", exchange, "fanout", durable=True)
    await channel.call("exchange_delete", exchange)


def _failure(error: BrokerError) -> Failure:
    if isinstance(error, ChannelClosed) and error.reply_code == PRECONDITION_FAILED:
        return Failure.of(Code.EXCHANGE_TAKEN, number=error.reply_code)
    # The broker's own reason holds no secret and names the exchange.
    return replace(error.failure, detail=str(error))
