"""`cim-worker run` under a sampling profiler: `python -m tests.benchmarks.sampled_worker SAMPLES.json run …`.

A timer of processor time interrupts it two hundred times a second and notes the function it is in. Unlike a tracing
profiler this makes small functions no slower than they are. Time in C belongs to the function that calls it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli import main as run_worker

if TYPE_CHECKING:
    from types import FrameType

_INTERVAL_SECONDS = 0.005


def main() -> None:
    """Run the worker and write the samples when it has ended."""
    target = Path(sys.argv.pop(1))
    samples: Counter[tuple[str, str]] = Counter()

    def note(_number: int, frame: FrameType | None) -> None:
        if frame is not None:
            samples[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)
    try:
        run_worker()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        target.write_text(json.dumps([[*place, count] for place, count in samples.most_common()]))


if __name__ == "__main__":
    main()
