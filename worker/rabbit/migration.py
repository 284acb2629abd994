"""Taking a quorum queue whose arguments cannot be changed through to the wanted ones, without losing a message.

    1. [cim.ingress.migration] is made and bound to the exchanges of [cim.ingress], which is then unbound: what is
       published to an exchange waits there.
    2. [cim.ingress] is made to refuse what is published to it by name: a policy, and a mark that keeps it from running
       empty.
    3. What it holds goes to [cim.ingress.migration], byte for byte; it is deleted and made again as wanted, and bound.
    4. [cim.ingress.migration] is unbound and emptied into it, byte for byte, and deleted.

Nobody may take from the queue meanwhile: a message in somebody's hands would be lost with the queue. A run that was
interrupted is taken up again by the next one, from any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pika

from worker.rabbit.consumer import Consumer
from worker.rabbit.errors import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    BrokerError,
    ChannelClosed,
    ConfirmTimeout,
    TopologyMismatch,
)
from worker.rabbit.frames import encode_publish
from worker.rabbit.probing import fresh_channel
from worker.rabbit.properties import encode_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.rabbit.connection import Channel, Connection
    from worker.rabbit.consumer import Delivery
    from worker.rabbit.management import Management
    from worker.rabbit.topology import Queue

_WAY = "cim.migration"
"""Fanout exchange through which messages are moved: their own routing keys, CC included, lead nowhere else."""
_MARK = "cim-migration"
"""Message id of what keeps a queue from being empty; never moved."""
_POLICY = "cim-migration"
_AT_ONCE = 500
_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 1.0
"""What was routed before an unbind, or published before a refusal, has arrived after this."""
_ARRIVAL_SECONDS = 10.0
_CONFIRM_SECONDS = 30.0
_ROUNDS = 30


def spare_name(queue: str) -> str:
    """Return the name of the queue that stands in meanwhile."""
    return f"{queue}.migration"


async def is_as_wanted(connection: Connection, queue: Queue) -> bool:
    """Tell whether *queue* has the wanted arguments; it is made if it does not exist. Raises `BrokerError`."""
    try:
        async with fresh_channel(connection) as channel:
            await channel.call("queue_declare", queue.name, durable=True, arguments=queue.arguments)
    except ChannelClosed as error:
        if error.reply_code != PRECONDITION_FAILED:
            raise
        return False
    return True


class PublishRefused(BrokerError):  # noqa: N818 - as the other errors of the broker
    """A queue did not take a message."""


class Migration:
    """Takes queues through, one after the other, on *connection*; *management* sets and removes the policy.

    *on_moved* is called with the number of messages of each run moved; each message is moved twice.
    """

    def __init__(
        self,
        connection: Connection,
        management: Management,
        *,
        consumers_seconds: float = 60.0,
        on_moved: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._connection = connection
        self._management = management
        self._consumers_seconds = consumers_seconds
        self._on_moved = on_moved
        self.moved = 0
        self._copied: set[tuple[str | None, bytes]] = set()

    async def take_through(self, queue: Queue) -> None:
        """Make *queue* as wanted. Returns when all its messages are in it.

        Raises `TopologyMismatch` when somebody takes from it, or publishes to it by name without end, and
        `ManagementUnavailable` or another `BrokerError`; nothing is lost then, and running it again goes on.
        """
        spare = spare_name(queue.name)
        async with fresh_channel(self._connection) as channel:
            await self._make_spare(channel, queue, spare)
            if await self._state(queue.name) is not None and not await is_as_wanted(self._connection, queue):
                await self._unbind(channel, queue)
                await self._wait_for_no_consumer(queue.name)
                await self._point_way(channel, spare, away_from=queue.name)
                await self._remove_old(channel, queue.name)
            self._copied.clear()
            await self._management.remove_policy(_POLICY)
            await channel.call("queue_declare", queue.name, durable=True, arguments=queue.arguments)
            for exchange in queue.bound_to:
                await channel.call("queue_bind", queue.name, exchange, routing_key=queue.key)
            for exchange in queue.bound_to:
                await channel.call("queue_unbind", spare, exchange, routing_key=queue.key)
            await asyncio.sleep(_SETTLE_SECONDS)
            await self._point_way(channel, queue.name, away_from=spare)
            await self._move(spare)
            await channel.call("queue_delete", spare)
            await channel.call("exchange_delete", _WAY)

    async def _make_spare(self, channel: Channel, queue: Queue, spare: str) -> None:
        await channel.call("exchange_declare", _WAY, "fanout", durable=True)
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
        await channel.call("queue_declare", spare, durable=True, arguments=arguments)
        for exchange in queue.bound_to:
            await channel.call("queue_bind", spare, exchange, routing_key=queue.key)

    async def _unbind(self, channel: Channel, queue: Queue) -> None:
        for exchange in queue.bound_to:
            await channel.call("queue_unbind", queue.name, exchange, routing_key=queue.key)

    async def _remove_old(self, channel: Channel, name: str) -> None:
        """Move all messages away and delete the queue when there are no more."""
        if (await self._management.queue(name) or {}).get("type") == "classic":
            await self._remove_classic(name)
            return
        try:
            await self._empty(name)
        except BaseException:
            await self._management.remove_policy(_POLICY)
            raise
        await channel.call("queue_delete", name)

    async def _remove_classic(self, name: str) -> None:
        """Delete a classic queue, which the broker does only if it is empty."""
        for _ in range(_ROUNDS):
            await self._move(name)
            with contextlib.suppress(ChannelClosed):
                async with fresh_channel(self._connection) as channel:
                    await channel.call("queue_delete", name, if_empty=True)
                return
        raise _too_busy(name)

    async def _empty(self, name: str) -> None:
        """Move all messages of a quorum queue away and see that no more come, which are refused from now on.

        One is left, the mark or one that was copied: the broker refuses only while there is something in the queue.
        """
        await self._publish("", name, [(encode_properties(message_id=_MARK), b"")])
        pattern = f"^{name.replace('.', '[.]')}$"
        await self._management.set_policy(_POLICY, pattern, {"max-length": 0, "overflow": "reject-publish"})
        await self._wait_until_refused(name)
        for _ in range(_ROUNDS):
            await self._move(name, keep=1)
            await self._copy_last(name)
            await asyncio.sleep(_SETTLE_SECONDS)
            if await self._ready(name) <= 1:
                return
        raise _too_busy(name)

    async def _wait_for_no_consumer(self, name: str) -> None:
        deadline = time.monotonic() + self._consumers_seconds
        while (count := (await self._declared(name)).consumer_count) > 0:
            if time.monotonic() > deadline:
                raise TopologyMismatch(f"{count} consumers take from {name}: stop the workers, and run it again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_until_refused(self, name: str) -> None:
        """Return once the policy is in force; what a try put into the queue is a mark as well."""
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        while time.monotonic() < deadline:
            try:
                await self._publish("", name, [(encode_properties(message_id=_MARK), b"")])
            except PublishRefused:
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise TopologyMismatch(f"the policy {_POLICY} has no effect on {name}: another one has a higher priority")

    async def _move(self, source: str, *, keep: int = 0) -> None:
        """Send all but *keep* messages of *source* the way that is pointed: confirmed first, then acknowledged."""
        while (count := min(await self._ready(source) - keep, _AT_ONCE)) > 0:
            consumer, deliveries = await self._taken(source, count)
            try:
                moved = await self._send_on(deliveries)
                for one in deliveries:
                    consumer.settle(one)
            finally:
                await consumer.close()
            self.moved += moved
            self._on_moved(moved)

    async def _copy_last(self, source: str) -> None:
        """Copy the one message that is left, and leave it there: an empty queue would take messages again."""
        consumer, deliveries = await self._taken(source, 1)
        try:
            await self._send_on(deliveries)
            self._copied.update(map(_identity, deliveries))
        finally:
            await consumer.close()

    async def _send_on(self, deliveries: Sequence[Delivery]) -> int:
        """Publish what is neither a mark nor copied already, and return how many that were."""
        fresh = [
            (one.raw_properties, one.body)
            for one in deliveries
            if one.properties.message_id != _MARK and not (one.redelivered and _identity(one) in self._copied)
        ]
        await self._publish(_WAY, "", fresh)
        return len(fresh)

    async def _taken(self, source: str, count: int) -> tuple[Consumer, Sequence[Delivery]]:
        consumer = await Consumer.open(self._connection, source, time.monotonic)
        await consumer.start(count)
        await consumer.wait_for(count, _ARRIVAL_SECONDS)
        return consumer, consumer.take(count, 1 << 40)

    async def _publish(self, exchange: str, key: str, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Publish messages as they are and wait until each is confirmed.

        Raises `PublishRefused` when a queue refuses one, and `ChannelClosed` (406) when one carries a user id that this
        user may not use.
        """
        if not messages:
            return
        async with fresh_channel(self._connection) as channel:
            confirms = _Confirms(len(messages))
            await channel.call("confirm_delivery", confirms.take)
            number, frame_max = channel.raw.channel_number, self._connection.raw.frame_max
            self._connection.raw.send(
                [encode_publish(number, exchange, key, *message, frame_max=frame_max) for message in messages]
            )
            ends: set[asyncio.Future[Any]] = {confirms.done, channel.closed}
            await asyncio.wait(ends, timeout=_CONFIRM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if channel.closed.done():
                raise channel.closed.result()
            if not confirms.done.done():
                raise ConfirmTimeout(f"no confirm within {_CONFIRM_SECONDS:g} s")
            confirms.done.result()

    async def _point_way(self, channel: Channel, to: str, *, away_from: str) -> None:
        await channel.call("queue_bind", to, _WAY, routing_key="")
        if await self._state(away_from) is not None:
            await channel.call("queue_unbind", away_from, _WAY, routing_key="")

    async def _ready(self, name: str) -> int:
        return int((await self._declared(name)).message_count)

    async def _declared(self, name: str) -> Any:
        found = await self._state(name)
        if found is None:
            raise BrokerError(f"the queue {name} is gone")
        return found

    async def _state(self, name: str) -> Any:
        """Return the broker's counts of a queue, or None when it does not exist."""
        try:
            async with fresh_channel(self._connection) as channel:
                return await channel.call("queue_declare", name, passive=True)
        except ChannelClosed as error:
            if error.reply_code != NOT_FOUND:
                raise
            return None


def _too_busy(name: str) -> TopologyMismatch:
    return TopologyMismatch(f"too much is published to {name} by name: stop those publishers for a moment")


def _identity(delivery: Delivery) -> tuple[str | None, bytes]:
    return delivery.properties.message_id, delivery.body


class _Confirms:
    """Counts the confirms of one run of publishes on a channel of its own."""

    def __init__(self, count: int) -> None:
        self._open = set(range(1, count + 1))
        self._refused = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all are there; raises `PublishRefused` if one was refused."""

    def take(self, frame: Any) -> None:
        """Take one confirm, called by pika."""
        tags = {tag for tag in self._open if tag <= frame.method.delivery_tag} if frame.method.multiple else set()
        tags.add(frame.method.delivery_tag)
        self._refused += 0 if isinstance(frame.method, pika.spec.Basic.Ack) else len(tags)
        self._open -= tags
        if not self._open and not self.done.done():
            if self._refused:
                self.done.set_exception(
                    PublishRefused(f"{self._refused} messages were refused by a queue that is full")
                )
            else:
                self.done.set_result(None)
