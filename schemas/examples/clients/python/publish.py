"""Publishes the CIM message in a file and says what became of it: python publish.py message.json"""

import json
import os
import sys
import time
from pathlib import Path

import pika

ADDRESS = pika.URLParameters(os.environ.get("CIM_RABBITMQ_URL", "amqp://localhost:5672/"))
SECONDS_TO_WAIT = float(os.environ.get("RECEIPT_SECONDS", "30"))


def send(body, message_id, place):
    """Publish once, on a connection of its own; return the receipt, or None if there was none in time."""
    receipts = {}
    connection = pika.BlockingConnection(ADDRESS)
    channel = connection.channel()
    # Receipts come back on this channel, to nobody else, and no queue has to be made for them.
    channel.basic_consume(
        "amq.rabbitmq.reply-to",
        lambda _c, _m, about, text: receipts.update({about.correlation_id: text}),
        auto_ack=True,
    )
    channel.confirm_delivery()  # from here on, basic_publish raises unless the broker has the message safely
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # persistent
        message_id=message_id,
        correlation_id=message_id,
        reply_to="amq.rabbitmq.reply-to",
        user_id=ADDRESS.credentials.username,  # checked by the broker: proves who published
    )
    channel.basic_publish("cim.ingress", place, body, properties, mandatory=True)
    print("confirmed", message_id, flush=True)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while message_id not in receipts and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    connection.close()
    return json.loads(receipts[message_id]) if message_id in receipts else None


def main():
    body = Path(sys.argv[1]).read_bytes()  # sent as it is, again and again: the same bytes are the same activity
    message = json.loads(body)
    header = message["header"]
    place = header.get("conversationId") or header.get("channelSessionId") or header["customer"]["_id"]
    for pause in (1, 2, 4, 8, 16, None):
        try:
            receipt = send(body, message["id"], place)
            break
        except pika.exceptions.AMQPConnectionError as lost:  # whether it arrived is unknown, so send again
            if pause is None or isinstance(lost, pika.exceptions.ProbableAuthenticationError):
                raise
            time.sleep(pause)
    if receipt is None:
        sys.exit("no receipt in time; the message is safe in the queue")
    print("receipt", receipt["outcome"], receipt["code"] or receipt["reason"] or receipt["eventId"])
    sys.exit(6 if receipt["outcome"] == "dead" else 0)


main()
