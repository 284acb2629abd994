"""`cim-worker run` without metrics: `python -m tests.benchmarks.uncounted_worker run …`, to see what they cost.

Nothing is counted, timed or looked at for them, and reports to the supervisor are empty. What the work itself needs
stays: deliveries received, and the checks of readiness. The supervisor starts the worker as a process of its own, which
loads this module again, and then finds `run_uncounted` in place of `run_child`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from worker.cli import main as run_worker
from worker.process import member
from worker.process.member import run_child


def run_uncounted(*arguments: Any) -> None:
    """Run the worker process, its metrics taken out."""
    from worker.ops.metrics import Metrics  # noqa: PLC0415 - the supervisor does without
    from worker.ops.reporter import LoggingReporter  # noqa: PLC0415
    from worker.pipeline.settlement import Settlement  # noqa: PLC0415
    from worker.process.observing import LetterObserver, QueueObserver  # noqa: PLC0415

    nothing: tuple[tuple[type, str, Any], ...] = (
        *((LoggingReporter, name, _nothing) for name in ("settled", "published", "stage", "batch", "receipts")),
        (Settlement, "_age", _nothing),
        (Metrics, "report", lambda _metrics: {}),
        (QueueObserver, "run", _for_ever),
        (LetterObserver, "run", _for_ever),
    )
    for owner, name, replacement in nothing:
        setattr(owner, name, replacement)
    run_child(*arguments)


def _nothing(*_arguments: object, **_more: object) -> None:
    pass


async def _for_ever(_observer: object) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_worker()
elif __name__ == "__mp_main__":
    member.run_child = run_uncounted  # type: ignore[assignment]
