"""FastStream as its documentation shows it: a broker, a subscriber with a typed argument, a publish inside the handler.

Typed as a dictionary, the body would be decoded and encoded once more; the handler takes the raw message, which suits
FastStream better.
"""

from __future__ import annotations

import asyncio

from faststream import FastStream
from faststream.rabbit import QueueType, RabbitBroker, RabbitMessage, RabbitQueue
from pymongo import AsyncMongoClient

from tests.benchmarks.rivals import handling
from tests.benchmarks.rivals.handling import Document, Invalid, Live
from worker import contract
from worker.pipeline.translate import EVENT_NAME

broker = RabbitBroker(handling.RABBITMQ_URL)
app = FastStream(broker)
queue = RabbitQueue(contract.INGRESS, queue_type=QueueType.QUORUM, durable=True, declare=False)


@app.on_startup
async def connect() -> None:
    """Connect to the store in the loop that uses it."""
    client: AsyncMongoClient[Document] = AsyncMongoClient(handling.MONGODB_URI)
    app.context.set_global("database", client[handling.DATABASE])


@broker.subscriber(queue)
async def handle(delivery: RabbitMessage) -> None:
    """Bring one message to its place; FastStream acknowledges afterwards."""
    database = app.context.get("database")
    message = handling.read(delivery.body)
    if isinstance(message, Invalid):
        await broker.publish(
            delivery.body,
            exchange=contract.DEAD_LETTERS,
            headers=message.headers,
            message_id=message.message_id,
            persist=True,
        )
        return
    found = await database.conversations.find_one({"_id": message.conversation_id}) if message.conversation_id else None
    decided = handling.decide(message, handling.conversation_of(found))
    if isinstance(decided, Live):
        await broker.publish(
            decided.body,
            exchange=contract.HUB,
            routing_key=decided.conversation_id,
            mandatory=True,
            persist=True,
            message_id=decided.event_id,
            message_type=EVENT_NAME,
        )
    else:
        activities = database.get_collection("ConversationActivities", write_concern=handling.MAJORITY)
        await activities.insert_one(decided.document)


if __name__ == "__main__":
    asyncio.run(app.run())
