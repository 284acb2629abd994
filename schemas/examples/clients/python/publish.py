"""Publishes the CIM message in a file and says what became of it: python publish.py message.json"""

import json
import os
import sys
import time
from pathlib import Path

import pika
from pika.exceptions import AMQPConnectionError, AMQPError, ProbableAccessDeniedError, ProbableAuthenticationError

URL = os.environ.get("CIM_RABBITMQ_URL", "amqp://localhost:5672/")
NO_MESSAGE = "no JSON message with a text of at most 255 bytes as its id, the same whenever it is sent again"
SECONDS_TO_WAIT = float(os.environ.get("RECEIPT_SECONDS", "30"))
REFUSALS = ProbableAccessDeniedError, ProbableAuthenticationError


def send(body, message_id, place):
    """Publish once, on a connection of its own; return the receipt, or None if there was none in time."""
    receipts, address = {}, pika.URLParameters(URL)
    connection = pika.BlockingConnection(address)
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
        user_id=address.credentials.username,  # checked by the broker: proves who published
    )
    channel.basic_publish("cim.ingress", place, body, properties, mandatory=True)
    print("confirmed", message_id, flush=True)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while message_id not in receipts and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    connection.close()
    return json.loads(receipts[message_id]) if message_id in receipts else None


def read(file):
    """Return the message's bytes, its id and where it belongs."""
    body = Path(file).read_bytes()  # sent as it is, again and again: the same bytes are the same activity
    message = json.loads(body)
    header = message.get("header") or {}
    customer = header.get("customer") or {}
    anchors = header.get("conversationId"), header.get("channelSessionId"), customer.get("_id")
    message_id = message["id"].strip()
    if len(message_id.encode()) not in range(1, 256):  # what AMQP takes
        raise ValueError(message_id)
    return body, message_id, next(filter(None, anchors), "unknown")


def main():
    """Publish the message, and give the exit code that `cim-worker publish` would give."""
    try:
        body, message_id, place = read(sys.argv[1])
    except (IndexError, OSError) as error:
        return 2, f"name a file with a message ({error})"
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return 6, f"{sys.argv[1]}: {NO_MESSAGE}"
    for pause in (1, 2, 4, 8, 16, None):
        try:
            receipt = send(body, message_id, place)
        except (AMQPError, OSError, ValueError) as error:
            if not isinstance(error, (AMQPConnectionError, OSError)) or isinstance(error, REFUSALS):
                return 2, f"not published: {error!r}"  # a right or a queue is missing: sending again would be in vain
            if pause is None:
                return 3, f"the broker is away: {error!r}"
            time.sleep(pause)  # unreachable or lost: whether it arrived is unknown, so send again
        else:
            break
    if receipt is None:
        return 5, "no receipt in time; the message is safe in the queue"
    print("receipt", receipt["outcome"], receipt["code"] or receipt["reason"] or receipt["eventId"])
    return (6 if receipt["outcome"] == "dead" else 0), ""


code, sentence = main()
print(sentence, file=sys.stderr, end="\n" if sentence else "")
sys.exit(code)
