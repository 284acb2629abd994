"""Moving on what came by the queue's name, where the ingress is partitioned: publishers' messages, and our retries.

A confirmed copy to the partition of its key, then the acknowledgement: in doubt a message comes twice, with the same
event id. It is neither received nor an outcome; that it is in its partition.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.cim import Rejected, parse
from worker.dead_letters.envelope import moved_copy, partition_key
from worker.dead_letters.provenance import strip_reserved_headers
from worker.flow.confirmed import publish_until_confirmed
from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from worker.flow.pause import Pause
    from worker.ports import Consumer, Delivery, EventPublisher, Outgoing, Reporter

_AT_ONCE: Final = 100
_BYTES: Final = 1024 * 1024
_PAUSE_UNKNOWN_SECONDS: Final = 3.0
_MAX_KEY_BYTES: Final = 255
_BESIDE: Final = frozenset({contract.INGRESS, contract.WAITING})
"""Queues beside the partitions: what is in them came by the queue's name."""


class PartitionKeys:
    """Finds the routing key by which a delivery belongs to its partition."""

    def __init__(self, trusted: Collection[str | None], max_message_bytes: int) -> None:
        """Believe headers of ours of *trusted* users; read bodies up to *max_message_bytes*."""
        self._trusted = trusted
        self._max_message_bytes = max_message_bytes

    def of(self, delivery: Delivery) -> str:
        """Return the key that brought *delivery* into its partition, or would; strips headers not to be believed."""
        if delivery.queue not in _BESIDE:
            return delivery.routing_key
        strip_reserved_headers(delivery, self._trusted)
        key = partition_key(delivery)
        return self._anchor(delivery) if key is None else key

    def _anchor(self, delivery: Delivery) -> str:
        """Return the most specific anchor of a message: what its publisher would best have given as routing key."""
        try:
            message = parse(
                delivery.body,
                received_at=0,
                max_bytes=self._max_message_bytes,
                content_encoding=delivery.properties.content_encoding,
            )
        except Exception:  # noqa: BLE001 - what is wrong with it is said where it is worked on: in any partition
            return ""
        if isinstance(message, Rejected):
            anchor = message.identity.conversation_id
        else:
            anchor = message.conversation_id or message.channel_session_id or message.customer_id
        return (anchor or "").encode("utf-8", "replace")[:_MAX_KEY_BYTES].decode("utf-8", "ignore")


class Mover:
    """Feeds the partitions from the undivided ingress queue. Single use, as its consumer."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: EventPublisher,
        keys: PartitionKeys,
        pause: Pause,
        reporter: Reporter,
        new_id: Callable[[], str],
        on_moved: Callable[[int], None],
    ) -> None:
        """Move what *consumer* takes to the partition of its key; *on_moved* is told how many went."""
        self._consumer = consumer
        self._publisher = publisher
        self._keys = keys
        self._pause = pause
        self._reporter = reporter
        self._new_id = new_id
        self._on_moved = on_moved
        self._moving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Move what is taken until the consumer has ended or this is cancelled; `finish` ends what is being moved."""
        while not self._consumer.cancelled.is_set():
            await self._consumer.wait_for_arrival()
            if batch := self._consumer.take(_AT_ONCE, _BYTES):
                self._moving = asyncio.create_task(self._move(batch), name="move to partitions")
                await asyncio.wait([self._moving])
                self._moving.result()

    async def run_consumer(self) -> None:
        """Have the broker deliver unless the pool is paused, until cancelled."""
        await self._pause.wait_known(_PAUSE_UNKNOWN_SECONDS)
        while True:
            await self._pause.wait_open()
            await self._consumer.start(_AT_ONCE)
            await self._pause.wait_closed()
            await self._consumer.stop()

    async def finish(self, seconds: float) -> None:
        """End what is in hand within *seconds* and hand the rest back."""
        if self._moving is not None:
            await asyncio.wait([self._moving], timeout=seconds)
        await self.abandon(failed=False)
        await self._consumer.close()  # where order is kept, others get the queue only then

    async def abandon(self, *, failed: bool = True) -> None:
        """Drop what is in hand: the broker brings it again."""
        if self._moving is not None:
            await cancel_and_wait([self._moving])
        await self._consumer.hand_back(failed=failed)

    async def _move(self, batch: Sequence[Delivery]) -> None:
        copies = [self._copy(delivery) for delivery in batch]
        if await publish_until_confirmed(self._publisher, copies, self._reporter):
            for delivery in batch:
                self._consumer.settle(delivery)
            self._on_moved(len(batch))

    def _copy(self, delivery: Delivery) -> Outgoing:
        return moved_copy(delivery, self._keys.of(delivery), copy_id=self._new_id())
