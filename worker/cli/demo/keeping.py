"""Keeps the demo running after its account: workers, conversations and subscribers, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from worker.contract import CODE, DETAIL, MESSAGE_ID
from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.rabbit.consumer import Delivery


class Announcer:
    """Says what arrives, once the demo has finished counting; before that there would be thousands of lines."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """Say each line with *say*."""
        self._say = say
        self.is_on = False

    def event(self, conversation_id: str, delivery: Delivery) -> None:
        """Say that a subscriber of the conversation received an event."""
        if self.is_on:
            self._say(
                f"subscriber of {conversation_id} received event {printable(str(delivery.properties.message_id))}"
            )

    def letter(self, delivery: Delivery) -> None:
        """Say that a message died, and why."""
        if self.is_on:
            headers = delivery.properties.headers
            text = f"dead letter: {headers.get(CODE)}: {headers.get(DETAIL)} (message {headers.get(MESSAGE_ID)})"
            self._say(printable(text))


async def wait_for_stop() -> None:
    """Return when SIGINT or SIGTERM comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
