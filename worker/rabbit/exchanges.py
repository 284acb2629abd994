"""The exchange of each conversation: it exists and is bound to the hub while the conversation is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.contract import HUB, conversation_exchange

if TYPE_CHECKING:
    from worker.rabbit.connection import Channel, Connection


class ConversationExchanges:
    """Opens, unbinds and deletes conversation exchanges. Every method is idempotent.

    Needs configure permission on `conversation.*`, unlike the hot path, and so uses a channel of its own that is
    renewed after a refusal.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Channel | None = None

    async def open(self, conversation_id: str) -> None:
        """Declare the exchange and bind it to the hub. Raises `BrokerError`."""
        exchange = conversation_exchange(conversation_id)
        await self._call("exchange_declare", exchange, "fanout", durable=True)
        await self._call("exchange_bind", exchange, HUB, routing_key=conversation_id)

    async def unbind(self, conversation_id: str) -> None:
        """Take the exchange off the hub: new activities come back as returned and go to the store.

        The exchange and the subscribers' queues stay, so that what was routed a moment ago is still read.
        """
        await self._call("exchange_unbind", conversation_exchange(conversation_id), HUB, routing_key=conversation_id)

    async def delete(self, conversation_id: str) -> None:
        """Delete the exchange; deleting a missing one is fine."""
        await self._call("exchange_delete", conversation_exchange(conversation_id))

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self._channel is None or self._channel.closed.done():
            self._channel = await self._connection.channel()
        await self._channel.call(method, *args, **kwargs)
