"""Publishing that nobody waits for: receipts, on an AMQP channel of their own."""

from __future__ import annotations

import asyncio
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Final, Self

import pika.exceptions

from worker import compiled
from worker.contract import APP_ID, DIRECT_REPLY_TO, RECEIPT
from worker.ports import ReceiptResult
from worker.rabbit.errors import ConnectionLost
from worker.rabbit.frames import encode_publish
from worker.rabbit.properties import PropertiesTemplate, encode_properties, encode_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.ports import Outgoing
    from worker.rabbit.connection import Channel, Connection

_MOST_UNSENT_BYTES: Final = 256 * 1024
"""Bytes the connection may have to send already: live events go first."""
_MOST_UNCONFIRMED: Final = 20_000
_CHECK_SECONDS: Final = 0.05
_CONTENT_TYPE: Final = "application/json"


class ReceiptPublisher:
    """Sends receipts on one channel until that ends. Nothing waits for a confirm; each only counts.

    A named queue that is missing returns its receipt. Direct reply-to is published without asking for returns:
    brokers before 4.2 return such a publish although they deliver it, and no broker says that the reader is gone.
    """

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        *,
        user_id: str | None,
        count: Callable[[ReceiptResult, int], None],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._user_id = user_id
        self._properties = PropertiesTemplate(content_type=_CONTENT_TYPE, type_=RECEIPT, app_id=APP_ID, user_id=user_id)
        self._count = count
        self._frame_max = connection.raw.frame_max
        self._next_tag = 1
        self._unconfirmed: dict[int, None] = {}
        self._returned = 0
        """Returned publishes whose confirm is still to come."""
        self._confirmed = 0
        """Those of the bytes that are being read; they are counted together."""
        number = channel.raw.channel_number
        connection.raw.attach(number, self)
        channel.closed.add_done_callback(lambda _: connection.raw.detach(number))
        for end in (channel.closed, connection.closed):
            end.add_done_callback(lambda _: self._count_unknown())

    @classmethod
    async def open(
        cls,
        connection: Connection,
        *,
        user_id: str | None,
        count: Callable[[ReceiptResult, int], None],
    ) -> Self:
        """Open a channel on *connection*, which is closed with it; *count* is told what became of how many.

        Raises `BrokerError`.
        """
        channel = await connection.channel()
        await channel.call("confirm_delivery", lambda _: None)
        return cls(connection, channel, user_id=user_id, count=count)

    async def ready(self) -> None:
        """Wait while the broker blocks us, or while there is much to send already. Raises `BrokerError` at the end."""
        while self._connection.blocked_reason is not None or self._connection.raw.unsent_bytes > _MOST_UNSENT_BYTES:
            self._raise_if_closed()
            await asyncio.sleep(_CHECK_SECONDS)  # the socket says nothing when it has room
        self._raise_if_closed()

    def send(self, receipts: Sequence[Outgoing]) -> None:
        """Send *receipts*, in one go. Raises `BrokerError` when the channel has ended: then none was sent."""
        self._raise_if_closed()
        try:
            self._connection.raw.send(self._encode(receipts))
        except pika.exceptions.AMQPError:
            raise ConnectionLost("the connection is closed") from None
        first, self._next_tag = self._next_tag, self._next_tag + len(receipts)
        self._unconfirmed.update(dict.fromkeys(range(first, self._next_tag)))
        while len(self._unconfirmed) > _MOST_UNCONFIRMED:
            del self._unconfirmed[next(iter(self._unconfirmed))]
            self._count(ReceiptResult.UNKNOWN, 1)

    async def end(self) -> None:
        """Count what was not confirmed, and close the connection."""
        self._count_unknown()
        try:
            await self._connection.close()
        finally:  # whoever is in a hurry cancels this, and the socket must not outlive it
            if not self._connection.closed.done():
                self._connection.abort(ConnectionLost("closed by us"))

    def _count_unknown(self) -> None:
        self.on_read()  # the bytes that end a channel may hold confirms before that
        if self._unconfirmed:
            self._count(ReceiptResult.UNKNOWN, len(self._unconfirmed))
            self._unconfirmed.clear()

    def _raise_if_closed(self) -> None:
        if self._channel.closed.done():
            raise self._channel.closed.result()
        if not self._connection.is_open:
            raise ConnectionLost("the connection is closed")

    def _encode(self, receipts: Sequence[Outgoing]) -> list[bytes]:
        """Write *receipts*, those in a row that are alike in asking for returns together where that is compiled."""
        frames: list[bytes] = []
        for mandatory, alike in groupby(receipts, _comes_back):
            run = tuple(alike)
            written = None
            if compiled.frames is not None:
                number = self._channel.raw.channel_number
                written = compiled.frames.publish_run(
                    number, run, self._frame_max, self._user_id, encode_table, mandatory
                )
            if written is None:
                frames.extend(self._encode_purely(receipt, mandatory=mandatory) for receipt in run)
            else:
                frames.append(written)
        return frames

    def _encode_purely(self, receipt: Outgoing, *, mandatory: bool) -> bytes:
        _, address, message_id, body, correlation_id, _, _, timestamp, *_ = receipt
        properties = self._encode_properties(message_id, correlation_id, timestamp)
        channel, frame_max = self._channel.raw.channel_number, self._frame_max
        return encode_publish(channel, "", address, properties, body, frame_max=frame_max, mandatory=mandatory)

    def _encode_properties(self, message_id: str, correlation_id: str | None, timestamp: int | None) -> bytes:
        if correlation_id is not None and timestamp is not None:
            return self._properties.write(message_id, correlation_id, timestamp)
        return encode_properties(
            message_id=message_id, timestamp=timestamp, type_=RECEIPT, app_id=APP_ID, user_id=self._user_id
        )

    def on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:  # noqa: FBT001 - fixed by Sink
        """Count what a confirm speaks of; a returned publish was counted when it came back."""
        if multiple:
            tags = [*takewhile(tag.__ge__, self._unconfirmed)]
            known = len(tags)
            for one in tags:
                del self._unconfirmed[one]
        else:
            known = 1 if self._unconfirmed.pop(tag, tag) is None else 0
        returned = min(known, self._returned) if positive else 0  # what came back is confirmed, never refused
        self._returned -= returned
        if positive:
            self._confirmed += known - returned
        else:
            self._count(ReceiptResult.QUEUE_REFUSED, known)

    def on_return(self, exchange: str, routing_key: str, properties: bytes) -> None:  # noqa: ARG002 - fixed by Sink
        """Count a receipt whose queue is gone."""
        self._returned += 1
        self._count(ReceiptResult.QUEUE_GONE, 1)

    def on_deliver(self, *_: object) -> None:
        """Never called: nothing is consumed here."""

    def on_read(self) -> None:
        """Count what was confirmed: the broker's confirms come many at a time."""
        if self._confirmed:
            self._count(ReceiptResult.SENT, self._confirmed)
            self._confirmed = 0


def _comes_back(receipt: Outgoing) -> bool:
    return not receipt.routing_key.startswith(DIRECT_REPLY_TO)
