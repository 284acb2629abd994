"""A publisher that never stops: live, stored and invalid messages in turn, each confirmed, all remembered."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pika
import pika.exceptions

from tests.support.amqp import plain

if TYPE_CHECKING:
    from types import TracebackType

_PAUSE_SECONDS = 0.002
_AGAIN_SECONDS = 0.05
_INTERNAL_ERROR = 541


class SteadyLoad:
    """Publishes from a thread of its own for as long as the `with` block lasts.

    What the broker refuses or returns is published again, as every publisher has to do.
    """

    def __init__(
        self,
        url: str,
        conversation: str,
        *,
        exchange: str = "cim.ingress",
        key: str | None = "cim.ingress",
        name: str = "load",
    ) -> None:
        """Publish with routing key *key*, or each message with its id, which begins with *name*."""
        self._url, self._conversation, self._name = url, conversation, name
        self._exchange, self._key = exchange, key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady load")
        self._error: BaseException | None = None
        self.live: list[str] = []
        self.stored: list[str] = []
        self.invalid: list[str] = []
        self.refused = 0
        """Publishes that the broker did not take at first."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End after the message in progress."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    @property
    def count(self) -> int:
        """Messages confirmed so far."""
        return len(self.live) + len(self.stored) + len(self.invalid)

    def _run(self) -> None:
        try:
            number = 1
            while not self._stop.is_set():
                number = self._publish_from(number)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._error = error

    def _publish_from(self, number: int) -> int:
        """Publish on one connection until told to stop, or until that ends; return the number of the next message."""
        try:
            with plain(self._url) as channel:
                while not self._stop.wait(_PAUSE_SECONDS):
                    self._publish_one(channel, number)
                    number += 1
        except pika.exceptions.ConnectionClosedByBroker as error:
            # RabbitMQ can end the connection of who publishes to a queue by its name the moment that goes. A publisher
            # connects again, and sends again what was not confirmed.
            if self._exchange or error.reply_code != _INTERNAL_ERROR:
                raise
        return number

    def _publish_one(self, channel: Any, number: int) -> None:
        message_id = f"{self._name}-{number}"
        kept = self.live
        header: dict[str, Any] = {"conversationId": self._conversation}
        if number % 3 == 0:
            kept, header = self.stored, {"customer": {"_id": f"customer-{number}"}}
        elif number % 20 == 1:
            kept, header = self.invalid, {}
        body = _message(message_id, header)
        properties = pika.BasicProperties(delivery_mode=2, message_id=message_id)
        while not self._is_taken(channel, body, properties):
            self.refused += 1
            time.sleep(_AGAIN_SECONDS)
        kept.append(message_id)

    def _is_taken(self, channel: Any, body: bytes, properties: pika.BasicProperties) -> bool:
        try:
            key = properties.message_id if self._key is None else self._key
            channel.basic_publish(self._exchange, key, body, properties, mandatory=True)
        except (pika.exceptions.NackError, pika.exceptions.UnroutableError):
            return False
        return True


def _message(message_id: str, header: dict[str, Any]) -> bytes:
    sender = {"id": "app-1", "type": "APP", "senderName": "App"}
    return json.dumps(
        {
            "id": message_id,
            "header": {"sender": sender, "timestamp": 1_760_000_000_000, **header},
            "body": {"type": "PLAIN", "markdownText": message_id},
        }
    ).encode()
