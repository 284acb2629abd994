"""How much is in queues: over AMQP what is ready, over the management API also what is unacknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.desk.status import Depth
from worker.rabbit.errors import NOT_FOUND, AccessRefused, ChannelClosed
from worker.rabbit.management import Management
from worker.rabbit.probing import fresh_channel
from worker.rabbit.topology import found_partitions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.rabbit.connection import Connection
    from worker.rabbit.management import ManagementSettings


class PassiveDepths:
    """Asks over AMQP: messages ready, and consumers. Any permission on a queue will do."""

    def __init__(self, connection: Connection) -> None:
        """Ask through *connection*."""
        self._connection = connection

    async def depths(self, names: Sequence[str]) -> Mapping[str, Depth | None]:
        """Return what is in each queue, None for one that does not exist. Raises `BrokerError`.

        Queues that this user may not look at are missing in the answer.
        """
        found: dict[str, Depth | None] = {}
        for name in names:
            try:
                async with fresh_channel(self._connection) as channel:
                    answer = await channel.call("queue_declare", name, passive=True)
            except AccessRefused:
                continue
            except ChannelClosed as error:
                if error.reply_code != NOT_FOUND:
                    raise
                found[name] = None
            else:
                found[name] = Depth(answer.message_count, consumers=answer.consumer_count)
        return found

    async def partitions(self) -> int:
        """Return how many partitions the ingress has; 0: it is not partitioned. Raises `BrokerError`."""
        return await found_partitions(self._connection)


class ManagementDepths:
    """Asks the management API, whose numbers are up to five seconds old."""

    def __init__(self, management: Management) -> None:
        """Ask *management*."""
        self._management = management

    @classmethod
    def of(cls, settings: ManagementSettings) -> ManagementDepths | None:
        """Return one for the management API in *settings*, None where they name none."""
        management = Management.of(settings)
        return None if management is None else cls(management)

    async def depths(self, names: Sequence[str]) -> Mapping[str, Depth | None]:
        """Return what is in each queue, None for one that does not exist. Raises `ManagementUnavailable`."""
        found = {name: await self._management.queue(name) for name in names}
        return {name: None if queue is None else _depth(queue) for name, queue in found.items()}

    async def partitions(self) -> int:
        """Return how many partitions the ingress has; 0: it is not partitioned. Raises `ManagementUnavailable`."""
        return await self._management.partitions()


def _depth(queue: Mapping[str, Any]) -> Depth:
    stats = queue.get("message_stats") or {}
    rate = (stats.get("publish_details") or {}).get("rate")
    return Depth(
        ready=int(queue.get("messages_ready") or 0),
        unacknowledged=int(queue.get("messages_unacknowledged") or 0),
        consumers=int(queue.get("consumers") or 0),
        arriving=rate if isinstance(rate, int | float) else None,
        head_at=queue.get("head_message_timestamp") or None,
    )
