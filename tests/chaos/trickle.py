"""A steady trickle of live messages to a conversation nobody disturbs: how long each takes while something else fails.

    python -m tests.chaos.trickle URL CONVERSATION QUEUE PER_SECOND FILE

A process of its own, so that nothing of the harness is measured. It publishes and subscribes on one connection until
SIGTERM, then waits for what is missing, and writes one JSON line `[sent at, seconds or null]` for each message; times
are monotonic seconds.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pika

from tests.chaos.messages import canonical

_LONGEST_WAIT_SECONDS = 20.0


class Trickle:
    """Sends one message after the other and notes when each arrives."""

    def __init__(self, url: str, conversation: str, queue: str) -> None:
        self._conversation = conversation
        self._sent: list[float] = []
        self._seconds: dict[int, float] = {}
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.basic_consume(queue, self._arrived, auto_ack=True)
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Send no more."""
        self._stopping = True

    def run(self, per_second: float) -> None:
        """Send *per_second* messages a second until told to stop, and wait for those under way."""
        started = time.monotonic()
        while not self._stopping:
            due = started + len(self._sent) / per_second
            self._connection.process_data_events(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                self._send()
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        while len(self._seconds) < len(self._sent) and time.monotonic() < deadline:
            self._connection.process_data_events(0.1)

    def write(self, file: Path) -> None:
        """Write what was measured."""
        lines = (json.dumps([sent, self._seconds.get(number)]) for number, sent in enumerate(self._sent))
        file.write_text("".join(f"{line}\n" for line in lines))

    def _send(self) -> None:
        number = len(self._sent)
        header = {"conversationId": self._conversation, "sender": {"id": "trickle", "type": "APP"}}
        message = {"id": f"trickle-{number}", "header": header, "body": {"type": "CHAOS", "n": number}}
        properties = pika.BasicProperties(delivery_mode=2)
        self._sent.append(time.monotonic())
        self._channel.basic_publish("", "cim.ingress", canonical(message), properties)

    def _arrived(self, _: object, __: object, ___: object, body: bytes) -> None:
        event: dict[str, Any] = json.loads(body)
        number = event["data"]["body"]["n"]
        self._seconds.setdefault(number, time.monotonic() - self._sent[number])


def main() -> None:
    """Measure until SIGTERM."""
    url, conversation, queue, per_second, file = sys.argv[1:]
    trickle = Trickle(url, conversation, queue)
    signal.signal(signal.SIGTERM, trickle.stop)
    trickle.run(float(per_second))
    trickle.write(Path(file))


if __name__ == "__main__":
    main()
