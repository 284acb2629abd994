"""Ending asyncio tasks for certain, and hearing of the exception that nobody expected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from worker.codes import Stage
from worker.failure import classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from worker.ports import Reporter

_AGAIN_SECONDS = 0.1
_RESUME_SECONDS = 30.0


class Crash:
    """Holds the first exception that left work in nobody's hands; then the session has to end.

    Make it on a running event loop.
    """

    def __init__(self) -> None:
        self.happened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with that exception."""

    def report(self, error: BaseException) -> None:
        """Keep *error* if it is the first one."""
        if not self.happened.done():
            self.happened.set_exception(error)


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until every one has ended; what they raise is theirs to report.

    Once is not enough: before Python 3.12, `asyncio.wait_for` swallows a cancellation that comes in the moment its
    result does (bpo-37658), and the store's driver calls it for every write.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_SECONDS)


async def keep_running(
    name: str, job: Callable[[], Awaitable[None]], reporter: Reporter, *, pause_seconds: float = _RESUME_SECONDS
) -> None:
    """Do *job* until it returns; when it raises what nobody foresaw, say so and begin again after a pause.

    For work beside the messages: a task that nobody waits for would end unheard.
    """
    while True:
        try:
            return await job()
        except Exception as error:  # noqa: BLE001 - a bug in work beside the messages must not end it for good
            reporter.warn("background_work_failed", task=name, reason=classify(error, Stage.STORE).detail)
        await asyncio.sleep(pause_seconds)
