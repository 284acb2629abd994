"""FastStream tuned: own channel with a measured prefetch, no log lines, no dependency injection, ready-made messages.

It looks conversations up through the same cache as our worker; more than that its documentation does not offer.
"""

from __future__ import annotations

import asyncio
import contextlib

import aio_pika
from aio_pika.exceptions import PublishError
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

from tests.benchmarks.rivals import handling
from tests.benchmarks.rivals.handling import CachedRegistry, Document, Invalid, Live
from worker import contract


async def undecoded(delivery: RabbitMessage) -> RabbitMessage:
    """Hand the delivery itself to the handler, instead of a dictionary that nobody needs."""
    return delivery


broker = RabbitBroker(
    handling.RABBITMQ_URL,
    logger=None,
    apply_types=False,
    decoder=undecoded,
    default_channel=Channel(on_return_raises=True),
)
app = FastStream(broker, logger=None)
queue = RabbitQueue(contract.INGRESS, queue_type=QueueType.QUORUM, durable=True, declare=False)
hub = RabbitExchange(contract.HUB, declare=False)
dead_letters = RabbitExchange(contract.DEAD_LETTERS, declare=False)


class Handler:
    """Holds what belongs to the running loop."""

    def connect(self) -> None:
        """Connect to the store."""
        client: AsyncMongoClient[Document] = AsyncMongoClient(handling.MONGODB_URI)
        database = client[handling.DATABASE]
        self.registry = CachedRegistry(client)
        self.activities = database.get_collection("ConversationActivities", write_concern=handling.MAJORITY)

    async def store(self, document: Document) -> None:
        """Insert a document, unless it is there since the time before."""
        with contextlib.suppress(DuplicateKeyError):
            await self.activities.insert_one(document)


handler = Handler()
app.on_startup(handler.connect)


@broker.subscriber(queue, channel=Channel(prefetch_count=handling.PREFETCH or 200), ack_policy=AckPolicy.MANUAL)
async def handle(delivery: RabbitMessage) -> None:
    """Bring one message to its place, then acknowledge."""
    message = handling.read(delivery.body)
    if isinstance(message, Invalid):
        letter = aio_pika.Message(
            delivery.body, message_id=message.message_id, headers=message.headers, delivery_mode=2
        )
        await broker.publish(letter, exchange=dead_letters)
    else:
        decided = handling.decide(message, await handler.registry.conversation(message))
        if isinstance(decided, Live):
            event = aio_pika.Message(decided.body, **handling.properties(decided))
            try:
                await broker.publish(event, exchange=hub, routing_key=decided.conversation_id, mandatory=True)
            except PublishError:
                await handler.store(decided.document)
        else:
            await handler.store(decided.document)
    await delivery.ack()


if __name__ == "__main__":
    asyncio.run(app.run())
