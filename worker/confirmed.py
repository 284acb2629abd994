"""Publishing one thing until the broker has it: for the few messages outside the hot path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.ports import Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.accounts import Accounts
    from worker.ports import EventPublisher, Outgoing

_PAUSE_SECONDS = 0.5


async def publish_until_confirmed(publisher: EventPublisher, messages: Sequence[Outgoing], accounts: Accounts) -> bool:
    """Publish *messages* until each is confirmed; a full or missing queue is waited for.

    Returns False when the effect of one stayed unknown: the connection ended, and the caller must not settle.
    """
    waiting = list(messages)
    while waiting:
        receipts = await publisher.publish(waiting)
        if Receipt.UNKNOWN in receipts:
            return False
        refused = [
            (one, receipt) for one, receipt in zip(waiting, receipts, strict=True) if receipt is not Receipt.CONFIRMED
        ]
        waiting = [one for one, _ in refused]
        if refused:
            one, receipt = refused[0]
            accounts.trouble(
                "copies_refused", count=len(refused), queue=one.routing_key or one.exchange, receipt=receipt.value
            )
            await asyncio.sleep(_PAUSE_SECONDS)
    return True
