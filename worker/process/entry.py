"""From the start of a worker process to its exit code: signals, and the watch for a vanished parent."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING

from worker.process.worker import Worker

if TYPE_CHECKING:
    from worker.settings import Settings

_PARENT_CHECK_SECONDS = 1.0


def run_process(settings: Settings, index: int, *, parent: int | None = None) -> None:
    """Run one worker process to its end. Blocking; installs signal handlers.

    SIGTERM or SIGINT drains; a second one ends the process at once. With *parent*, the process also drains when that
    one is gone: nobody would restart or stop it any more.
    """

    async def main() -> None:
        worker = Worker(settings, index=index)
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM,) if parent else (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, _on_signal, worker, loop, numbers)
        watch = asyncio.create_task(_stop_when_orphaned(worker, parent)) if parent else None
        try:
            await worker.run()
        finally:
            if watch is not None:
                watch.cancel()

    gc.collect()
    gc.freeze()  # code is never garbage, and searching it at each full collection took a fifth of the processor time
    asyncio.run(main())


def _on_signal(worker: Worker, loop: asyncio.AbstractEventLoop, numbers: tuple[signal.Signals, ...]) -> None:
    worker.stop()
    for number in numbers:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


async def _stop_when_orphaned(worker: Worker, parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - becoming an orphan sends no event
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    worker.stop()
