"""From the start of a worker process to its exit code: signals, and the watch for a vanished parent."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Final

import structlog

from worker.flow.tasks import cancel_and_wait
from worker.process.reports import ReportWriter
from worker.process.signals import STUCK_SECONDS
from worker.process.worker import Worker

if TYPE_CHECKING:
    from worker.flow.pause import PauseState
    from worker.process.signals import StopSignals
    from worker.settings import Settings

_PARENT_CHECK_SECONDS = 1.0
_END_SECONDS: Final = 5.0
"""Longest a process takes to end when its work is done: a process that was orphaned has nobody who would end it."""
_GC_AFTER = 50_000
"""Objects made and not yet let go before cycles among them are looked for: more than belong to a full window, whose
deliveries hold no cycles, and would be gone through again and again."""


def run_process(
    settings: Settings, index: int, signals: StopSignals, *, parent: int, reports: int, pause: PauseState | None
) -> None:
    """Run one worker process to its end. Blocking.

    The first of *signals* drains; further ones say the same again, for a service manager signals the whole group, and
    the supervisor passes on what it hears. To end it at once the supervisor kills it. It also drains when the process
    *parent* is gone: nobody would restart or stop it any more. What it does is reported to the descriptor *reports*;
    *pause* is what the process before it last knew.
    """

    async def main() -> None:
        worker = Worker(settings, index=index, pause=pause)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(worker.stop)  # wakes the loop, which a handler alone does not

        signals.attach(stop, _as_the_first)
        writer = ReportWriter(reports, worker.report)
        longest = settings.drain_grace_ms / 1000 + STUCK_SECONDS
        beside = [
            asyncio.create_task(_stop_when_orphaned(worker, parent, longest), name="watch for the supervisor"),
            asyncio.create_task(writer.run(), name="reports"),
        ]
        try:
            await worker.run()
        finally:
            await cancel_and_wait(beside)
            writer.close()
            signals.attach(lambda: None, _as_the_first)
            _end_in_time(_END_SECONDS)
            # What libraries left running is cancelled until it ends: asyncio.run cancels it once, and waits for ever.
            await cancel_and_wait(asyncio.all_tasks() - {asyncio.current_task()})

    gc.collect()
    gc.set_threshold(_GC_AFTER)
    gc.freeze()  # code is never garbage, and searching it at each full collection took a fifth of the processor time
    asyncio.run(main())


def _end_in_time(seconds: float) -> None:
    """End the process after so many *seconds*, whatever it still waits for then."""

    def end_at_once() -> None:
        structlog.get_logger().error("worker_end_forced", seconds=seconds)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end_at_once)
    timer.daemon = True
    timer.start()


def _as_the_first(_number: int) -> None:
    """Nothing more is to be done."""


async def _stop_when_orphaned(worker: Worker, parent: int, longest: float) -> None:
    """Stop *worker* when its supervisor is gone, and end the process *longest* seconds later as that would have."""
    while os.getppid() == parent:  # noqa: ASYNC110 - becoming an orphan sends no event
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    _end_in_time(longest)
    worker.stop()
