"""Taking a stream whose bounds cannot be changed through to the wanted ones, with what it holds.

    1. [cim.outcomes.migration], a stream without bounds, gets a copy of all that [cim.outcomes] holds.
    2. [cim.outcomes] is deleted, made again as wanted, and gets the copy back.
    3. [cim.outcomes.migration] is deleted.

A stream refuses no publish and gives nothing away: what is written to it behind the copy, before it is deleted, would
be lost. So nobody may take the messages whose outcomes are written to it, and one that grows is left as it is. Bodies,
encoding and the publisher's time are kept; the broker's own time is that of the copy, so that what is there is kept for
up to `x-max-age` longer, and a search from a time on reads more than it has to until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.contract import APP_ID, INGRESS, WAITING
from worker.ports import Confirmation, Outgoing
from worker.rabbit.errors import BrokerError, TopologyMismatch
from worker.rabbit.migration import is_as_wanted, spare_name
from worker.rabbit.probing import fresh_channel
from worker.rabbit.publisher import Publisher
from worker.rabbit.stream import Stream
from worker.rabbit.topology import ready

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from worker.desk.journal import StreamMessage
    from worker.rabbit.connection import Connection
    from worker.rabbit.topology import Queue

_STREAM = {"x-queue-type": "stream"}
_ROUNDS = 10


def is_stream(queue: Queue) -> bool:
    """Tell whether *queue* is taken through here; others are by `migration.Migration`."""
    return queue.arguments.get("x-queue-type") == _STREAM["x-queue-type"]


class StreamMigration:
    """Takes streams through on *connection*. *on_moved* is called with each number of messages copied, twice in all."""

    def __init__(self, connection: Connection, *, on_moved: Callable[[int], None] = lambda _count: None) -> None:
        self._connection = connection
        self._on_moved = on_moved

    async def take_through(self, queue: Queue) -> None:
        """Make *queue* as wanted, with what it held. Returns when all of it is there again.

        Raises `TopologyMismatch` when workers take messages, or somebody writes to it, and another `BrokerError`; the
        history is then in one of the two streams, and running it again goes on. If that was in the second half, what
        had come back already stands there twice.
        """
        await self._expect_no_worker()
        spare = spare_name(queue.name)
        if await ready(self._connection, queue.name) is not None and not await is_as_wanted(self._connection, queue):
            await self._delete(spare)  # half a copy of an earlier run, whose original is still whole
            await self._declare(spare, _STREAM)
            await self._copy_all(queue.name, spare)
            await self._delete(queue.name)
        await self._declare(queue.name, queue.arguments)
        await self._copy_all(spare, queue.name)
        await self._delete(spare)

    async def _expect_no_worker(self) -> None:
        for name in (INGRESS, WAITING):
            async with fresh_channel(self._connection) as channel:
                count = (await channel.call("queue_declare", name, passive=True)).consumer_count
            if count:
                text = f"{count} consumers take from {name} and write outcomes: stop or pause the workers"
                raise TopologyMismatch(f"{text}, and run it again")

    async def _copy_all(self, source: str, target: str) -> None:
        """Copy *source* to its end; two seconds of silence behind what was copied are the end."""
        publisher, reached = await Publisher.open(self._connection), -1
        for _ in range(_ROUNDS):
            before, reached = reached, await self._copy(source, publisher, target, behind=reached)
            if reached == before:
                return
        raise TopologyMismatch(f"outcomes are written to {source} meanwhile: stop the workers, and run it again")

    async def _copy(self, source: str, publisher: Publisher, target: str, *, behind: int) -> int:
        """Copy what follows the offset *behind*, and return the offset of the last message copied."""
        stream, reached = Stream(self._connection, source), behind
        ends = await stream.ends()
        if ends is None:
            return reached
        async for messages in stream.read(offset=None if behind < 0 else behind + 1, last=ends.last.offset):
            fresh = [one for one in messages if one.offset > reached]
            await _publish(publisher, target, fresh)
            reached = fresh[-1].offset if fresh else reached
            self._on_moved(len(fresh))
        return reached

    async def _declare(self, name: str, arguments: Mapping[str, Any]) -> None:
        async with fresh_channel(self._connection) as channel:
            await channel.call("queue_declare", name, durable=True, arguments=arguments)

    async def _delete(self, name: str) -> None:
        async with fresh_channel(self._connection) as channel:
            await channel.call("queue_delete", name)


async def _publish(publisher: Publisher, target: str, messages: Sequence[StreamMessage]) -> None:
    outgoing = [
        Outgoing(
            "",
            target,
            f"{target}-{one.offset}",
            one.body,
            type="cim.outcomes",
            app_id=APP_ID,
            timestamp=one.timestamp,
            content_encoding=one.encoding or None,
        )
        for one in messages
    ]
    said = set(await publisher.publish(outgoing)) if outgoing else set()
    if said - {Confirmation.CONFIRMED}:
        raise BrokerError(f"{target} did not take the copy: {', '.join(sorted(said - {Confirmation.CONFIRMED}))}")
