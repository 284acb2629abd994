"""Publishing until the broker has it: for retries, dead letters and the few other messages outside the hot path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import EventPublisher, Outgoing, Reporter

_PAUSE_SECONDS = 0.5
_WHY = {
    Confirmation.RETURNED: "the queue is missing: run `cim-worker topology apply`",
    Confirmation.NACKED: "the queue is full",
    Confirmation.TOO_LARGE: "the broker's max_message_size was lowered below it: raise it",
}


async def publish_until_confirmed(publisher: EventPublisher, messages: Sequence[Outgoing], reporter: Reporter) -> bool:
    """Publish *messages* until each is confirmed; a full or missing queue is waited for.

    Returns False when the effect of one stayed unknown: the connection ended, and the caller must not settle.
    """
    waiting = list(messages)
    while waiting:
        confirmations = await publisher.publish(waiting)
        if Confirmation.UNKNOWN in confirmations:
            return False
        refused = [
            (message, confirmation)
            for message, confirmation in zip(waiting, confirmations, strict=True)
            if confirmation is not Confirmation.CONFIRMED
        ]
        waiting = [message for message, _ in refused]
        if refused:
            await pause_after_refusal(refused, reporter)
    return True


async def pause_after_refusal(refused: Sequence[tuple[Outgoing, Confirmation]], reporter: Reporter) -> None:
    """Report messages that the broker did not take, and pause before they are published again."""
    message, confirmation = refused[0]
    reporter.warn(
        "copies_refused",
        count=len(refused),
        queue=message.routing_key or message.exchange,
        reason=_WHY.get(confirmation, confirmation.value),
    )
    await asyncio.sleep(_PAUSE_SECONDS)
