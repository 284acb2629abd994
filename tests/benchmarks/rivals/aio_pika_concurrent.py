"""aio-pika, each delivery a task of its own, as many at once as the prefetch allows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import PublishError
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

from tests.benchmarks.rivals import handling
from tests.benchmarks.rivals.handling import CachedRegistry, Document, Invalid, Live
from worker import contract

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage


async def main() -> None:
    """Consume until killed."""
    client: AsyncMongoClient[Document] = AsyncMongoClient(handling.MONGODB_URI)
    activities = client[handling.DATABASE].get_collection("ConversationActivities", write_concern=handling.MAJORITY)
    registry = CachedRegistry(client)
    consuming = await aio_pika.connect(handling.RABBITMQ_URL)
    publishing = await aio_pika.connect(handling.RABBITMQ_URL)
    channel = await consuming.channel()
    await channel.set_qos(prefetch_count=handling.PREFETCH or 200)
    out = await publishing.channel(publisher_confirms=True, on_return_raises=True)
    hub = await out.get_exchange(contract.HUB, ensure=False)
    dead_letters = await out.get_exchange(contract.DEAD_LETTERS, ensure=False)

    async def store(document: Document) -> None:
        with contextlib.suppress(DuplicateKeyError):  # it is there since the time before
            await activities.insert_one(document)

    async def on_message(delivery: AbstractIncomingMessage) -> None:
        message = handling.read(delivery.body)
        if isinstance(message, Invalid):
            await dead_letters.publish(
                aio_pika.Message(
                    delivery.body, message_id=message.message_id, headers=message.headers, delivery_mode=2
                ),
                "",
            )
        else:
            decided = handling.decide(message, await registry.conversation(message))
            if isinstance(decided, Live):
                event = aio_pika.Message(decided.body, **handling.properties(decided))
                try:
                    await hub.publish(event, decided.conversation_id, mandatory=True)
                except PublishError:
                    await store(decided.document)
            else:
                await store(decided.document)
        await delivery.ack()

    queue = await channel.get_queue(contract.INGRESS, ensure=False)
    await queue.consume(on_message)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
