"""`cim-worker run` under a sampling profiler: `python -m tests.benchmarks.sampled_worker SAMPLES.json run …`.

A timer of processor time interrupts the worker process two hundred times a second and notes the function it is in.
Unlike a tracing profiler this makes small functions no slower than they are. Time in C belongs to the function that
calls it. The supervisor starts the worker as a process of its own, which loads this module again, and then finds
`run_sampled` in place of `run_child`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.cli import main as run_worker
from worker.process import member
from worker.process.member import run_child

if TYPE_CHECKING:
    from types import FrameType

_INTERVAL_SECONDS = 0.005
_TARGET = "SAMPLES_OF_THE_WORKER"


def main() -> None:
    """Run the pool; its worker process writes the samples when it ends."""
    os.environ[_TARGET] = sys.argv.pop(1)
    run_worker()


def run_sampled(*arguments: Any) -> None:
    """Run the worker process, sampled."""
    samples: Counter[tuple[str, str]] = Counter()

    def note(_number: int, frame: FrameType | None) -> None:
        if frame is not None:
            samples[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)
    try:
        run_child(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        target = Path(os.environ[_TARGET])
        target.write_text(json.dumps([[*place, count] for place, count in samples.most_common()]))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    member.run_child = run_sampled  # type: ignore[assignment]
