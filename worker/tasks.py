"""Ending asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_AGAIN_SECONDS = 0.1


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until every one has ended; what they raise is theirs to tell.

    Once is not enough: before Python 3.12, `asyncio.wait_for` swallows a cancellation that comes in the moment its
    result does (bpo-37658), and the store's driver calls it for every write.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_SECONDS)
