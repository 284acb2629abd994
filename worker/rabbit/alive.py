"""Whether the node behind a connection lives: a frozen one keeps its sockets open, and only heartbeats would tell.

Where other nodes could do the work, a minute without it is long. So a node that has said nothing for a while is asked
something small, and if it does not answer, whether it takes a new connection: one that is only busy, or has no quorum,
does.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.addresses import address
from worker.flow.tasks import cancel_and_wait
from worker.rabbit.connection import Connection
from worker.rabbit.errors import BrokerError, BrokerUnreachable, NodeSilent

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.rabbit.connection import Channel


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each step waits, in seconds."""

    quiet: float = 2.0
    """Without a single byte, before the node is asked."""
    answer: float = 2.0
    opening: float = 3.0


_DEFAULT: Final = Patience()


class NodeWatch:
    """Ends one connection when its node is gone without a word."""

    def __init__(
        self,
        connection: Connection,
        *,
        ca_file: str | None = None,
        patience: Patience = _DEFAULT,
        on_silent: Callable[[str], None] = lambda _url: None,
    ) -> None:
        """Watch *connection*; *on_silent* is told its address before it is ended."""
        self._connection = connection
        self._ca_file = ca_file
        self._patience = patience
        self._on_silent = on_silent

    async def run(self) -> None:
        """Watch until cancelled or the connection has ended."""
        with contextlib.suppress(BrokerError):  # it has ended, which it says itself
            channel = await self._connection.channel()
            while not await self._is_silent(channel):
                pass
            self._on_silent(self._connection.url)
            self._connection.abort(NodeSilent(address(self._connection.url)))

    async def _is_silent(self, channel: Channel) -> bool:
        """Look once, which takes at least as long as a node may be quiet."""
        if await self._hears(self._patience.quiet) or not self._may_expect_answers:
            return False
        asking = asyncio.create_task(channel.call("basic_qos", prefetch_count=1), name="ask the node")
        try:
            if await self._hears(self._patience.answer) or not self._may_expect_answers:
                return False
            return not await self._takes_connections()
        finally:
            await cancel_and_wait([asking])

    @property
    def _may_expect_answers(self) -> bool:
        """Whether the broker reads what we send, and we read what it sends."""
        return self._connection.is_open and self._connection.blocked_reason is None and not self._connection.is_paused

    async def _hears(self, seconds: float) -> bool:
        """Tell whether anything came within *seconds*; raise the reason when the connection ends meanwhile."""
        before = self._connection.raw.bytes_received
        await asyncio.wait([self._connection.closed], timeout=seconds)
        if self._connection.closed.done():
            raise self._connection.closed.result()
        return self._connection.raw.bytes_received != before

    async def _takes_connections(self) -> bool:
        try:
            another = await Connection.open(
                self._connection.url,
                name="cim-worker: does this node live",
                ca_file=self._ca_file,
                timeout_seconds=self._patience.opening,
            )
        except BrokerUnreachable:
            return False
        except BrokerError:
            return True
        await another.close()
        return True
