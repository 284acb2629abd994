"""Publishes the CIM message in a file and says what became of it: python publish.py message.json"""

import json
import os
import sys
import time
from pathlib import Path

import pika
from pika import exceptions as failures

ADDRESS = pika.URLParameters(os.environ.get("CIM_RABBITMQ_URL", "amqp://localhost:5672/"))
USER = ADDRESS.credentials.username
SECONDS_TO_WAIT = float(os.environ.get("RECEIPT_SECONDS", "30"))
REPLIES = "amq.rabbitmq.reply-to"  # receipts come back on the channel that publishes, to nobody else
REFUSED = failures.ProbableAccessDeniedError, failures.ProbableAuthenticationError, failures.ChannelClosedByBroker


def send(body, own_id, place):
    """Publish once, on a connection of its own; return the receipt, or None if there was none in time."""
    told, connection = {}, pika.BlockingConnection(ADDRESS)
    channel = connection.channel()
    channel.basic_consume(REPLIES, lambda _c, _m, about, text: told.update({about.correlation_id: text}), auto_ack=True)
    channel.confirm_delivery()  # from here on, basic_publish raises unless the broker has the message safely
    # Persistent; the broker checks the user, which proves who published.
    about = pika.BasicProperties(delivery_mode=2, message_id=own_id, correlation_id=own_id, user_id=USER)
    about.reply_to = REPLIES
    channel.basic_publish("cim.ingress", place, body, about, mandatory=True)
    print("confirmed", own_id, flush=True)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while own_id not in told and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    connection.close()
    return json.loads(told[own_id]) if own_id in told else None


def publish(file):
    """Publish until the broker has it; return the exit code of `cim-worker publish`, and one sentence."""
    try:
        body = Path(file).read_bytes()  # sent as it is, again and again: the same bytes are the same activity
        message = json.loads(body)
        own_id, header = message["id"].strip(), message["header"]
        place = header.get("conversationId") or header.get("channelSessionId") or header["customer"]["_id"]
        fits = all(len(text.encode()) in range(1, 256) for text in (own_id, place))  # into AMQP
    except OSError as error:
        return 2, f"name a file with a message: {error}"
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        return 6, f"{file}: no JSON message with an id, the same whenever it is sent, and a place, of at most 255 bytes"
    for pause in (0, 1, 2, 4, 8, 16):
        time.sleep(pause)
        try:
            receipt = send(body, own_id, place)
        except (*REFUSED, failures.UnroutableError) as error:  # a right or the queue is missing: again is in vain
            return 2, f"not published: {error!r}"
        except (failures.AMQPError, OSError):
            continue  # unreachable or lost: whether it arrived is unknown, so send again
        if receipt is None:
            return 5, "no receipt in time; the message is safe in the queue"
        print("receipt", receipt["outcome"], receipt["code"] or receipt["reason"] or receipt["eventId"])
        return 6 if receipt["outcome"] == "dead" else 0, ""
    return 3, f"the broker at {ADDRESS.host} is away"


code, sentence = publish((*sys.argv, "")[1])
print(sentence, end="\n" if sentence else "", file=sys.stderr)
sys.exit(code)
