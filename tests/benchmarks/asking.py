"""Publishers that ask for receipts with direct reply-to, many of them on few connections."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, Self

from worker.ports import Confirmation
from worker.rabbit.asking import REPLIES, AskingPublisher
from worker.rabbit.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from worker.ports import Outgoing

_CHANNELS_PER_CONNECTION: Final = 250
_CONFIRM_TIMEOUT_MS: Final = 60_000


class Askers:
    """So many publishers, each with an AMQP channel of its own, in a thread of their own until the block ends."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="askers")
        self._connections: list[Connection] = []
        self._publishers: list[AskingPublisher] = []
        self.received = 0
        """Receipts that came back."""

    def __enter__(self) -> Self:
        """Connect."""
        self._thread.start()
        self._do(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        try:
            self._do(self._disconnect())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish *messages* in turn through all, each asking for its receipt; wait for the confirms."""
        self._do(self._publish(messages))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> None:
        for number in range(self._count):
            if number % _CHANNELS_PER_CONNECTION == 0:
                self._connections.append(await Connection.open(self._url, name="bench askers"))
            self._publishers.append(
                await AskingPublisher.ask(self._connections[-1], self._take, confirm_timeout_ms=_CONFIRM_TIMEOUT_MS)
            )

    async def _disconnect(self) -> None:
        for connection in self._connections:
            await connection.close()

    def _take(self, _correlation_id: str, _body: bytes) -> None:
        self.received += 1

    async def _publish(self, messages: Sequence[Outgoing]) -> None:
        asking = [one._replace(reply_to=REPLIES, correlation_id=one.message_id) for one in messages]
        count = len(self._publishers)
        parts = [(publisher, asking[number::count]) for number, publisher in enumerate(self._publishers)]
        for confirmations in await asyncio.gather(*(publisher.publish(part) for publisher, part in parts)):
            if any(one is not Confirmation.CONFIRMED for one in confirmations):
                raise RuntimeError("the broker did not take a message that asks")
