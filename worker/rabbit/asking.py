"""Publishing that is answered: each message asks for its receipt with RabbitMQ's direct reply-to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from worker.contract import RECEIPT
from worker.rabbit.properties import decode_properties
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.rabbit.connection import Connection

REPLIES: Final = "amq.rabbitmq.reply-to"
"""What a message that asks for its receipt here has as `reply_to`."""


class AskingPublisher(Publisher):
    """A publisher that every receipt comes back to. For the command line: a receipt that nobody awaits is lost."""

    _on_receipt: Callable[[str, bytes], None]

    @classmethod
    async def ask(
        cls, connection: Connection, on_receipt: Callable[[str, bytes], None], *, confirm_timeout_ms: int
    ) -> Self:
        """Open a channel whose messages ask for receipts; *on_receipt* is told correlation id and body of each."""
        self = await cls.open(connection, confirm_timeout_ms=confirm_timeout_ms)
        self._on_receipt = on_receipt
        await self._channel.call("basic_consume", REPLIES, lambda *_: None, auto_ack=True)
        return self

    async def _renew_if_refused(self) -> None:
        """Keep the channel: the replies come back to it, and to no other."""

    def on_deliver(self, *delivered: object) -> None:
        """Hand over one receipt."""
        *_, properties, body = delivered
        if isinstance(properties, bytes) and isinstance(body, bytes):
            read = decode_properties(properties)
            if read.type == RECEIPT:
                self._on_receipt(read.correlation_id or "", body)
