"""The loop most people write: pika's BlockingConnection, one message, one look-up, one confirm or insert, one ack."""

from __future__ import annotations

import contextlib

import pika
import pika.exceptions
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError

from tests.benchmarks.rivals import handling
from tests.benchmarks.rivals.handling import Document, Invalid, Live
from worker import contract


def main() -> None:
    """Consume until killed."""
    client: MongoClient[Document] = MongoClient(handling.MONGODB_URI)
    database = client[handling.DATABASE]
    activities = database.get_collection("ConversationActivities", write_concern=handling.MAJORITY)
    connection = pika.BlockingConnection(pika.URLParameters(handling.RABBITMQ_URL))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=handling.PREFETCH or 100)

    def store(document: Document) -> None:
        with contextlib.suppress(DuplicateKeyError):  # it is there since the time before
            activities.insert_one(document)

    def on_message(_channel: object, method: pika.spec.Basic.Deliver, _properties: object, body: bytes) -> None:
        message = handling.read(body)
        if isinstance(message, Invalid):
            channel.basic_publish(
                contract.DEAD_LETTERS,
                "",
                body,
                pika.BasicProperties(message_id=message.message_id, headers=message.headers, delivery_mode=2),
            )
        else:
            found = (
                database.conversations.find_one({"_id": message.conversation_id}) if message.conversation_id else None
            )
            decided = handling.decide(message, handling.conversation_of(found))
            if isinstance(decided, Live):
                properties = pika.BasicProperties(**handling.properties(decided))
                try:
                    channel.basic_publish(
                        contract.HUB, decided.conversation_id, decided.body, properties, mandatory=True
                    )
                except pika.exceptions.UnroutableError:
                    store(decided.document)
            else:
                store(decided.document)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(contract.INGRESS, on_message)
    channel.start_consuming()


if __name__ == "__main__":
    main()
