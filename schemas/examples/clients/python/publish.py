"""Publishes the CIM message in a file and says what became of it: python publish.py message.json"""

import json
import os
import sys
import time
from pathlib import Path

import pika
from pika import exceptions as failures

ADDRESS = pika.URLParameters(os.environ.get("CIM_RABBITMQ_URL", "amqp://localhost:5672/"))
USER = ADDRESS.credentials.username  # checked by the broker: proves who published
SECONDS_TO_WAIT = float(os.environ.get("RECEIPT_SECONDS", "30"))
REPLIES = "amq.rabbitmq.reply-to"  # receipts come back on the channel that publishes, to nobody else
REFUSED = failures.ProbableAccessDeniedError, failures.ProbableAuthenticationError, failures.ChannelClosedByBroker


def send(body, own_id, place):
    """Publish once, on a connection of its own; return the exit code of `cim-worker publish`, and one sentence."""
    receipts, connection = [], pika.BlockingConnection(ADDRESS)
    channel = connection.channel()
    channel.basic_consume(REPLIES, lambda *answer: receipts.append(json.loads(answer[-1])), auto_ack=True)
    channel.confirm_delivery()  # from here on, basic_publish raises unless the broker has the message safely
    about = pika.BasicProperties(delivery_mode=2, message_id=own_id, user_id=USER, reply_to=REPLIES)
    channel.basic_publish("cim.ingress", place, body, about, mandatory=True)
    print("confirmed", own_id, flush=True)
    connection.process_data_events(SECONDS_TO_WAIT)  # or until something comes
    connection.close()
    for receipt in receipts:
        print("receipt", receipt["outcome"], receipt["code"] or receipt["reason"] or receipt["eventId"])
        return 6 if receipt["outcome"] == "dead" else 0, ""
    return 5, "no receipt in time; the message is safe in the queue"


def publish(file):
    """Send until the broker has it."""
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
            return send(body, own_id, place)
        except (*REFUSED, failures.UnroutableError) as error:  # a right or the queue is missing: again is in vain
            return 2, f"not published: {error!r}"
        except (failures.AMQPError, OSError):
            continue  # unreachable or lost: whether it arrived is unknown, so send again
    return 3, f"the broker at {ADDRESS.host} is away"


code, sentence = publish((*sys.argv, "")[1])
print(sentence, end="\n" if sentence else "", file=sys.stderr)
sys.exit(code)
