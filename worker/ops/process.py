"""What a process takes of the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from worker.ops.metrics import Report

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_START_TIME: Final = 19
"""Place of the start, in ticks since boot, among the fields of /proc/…/stat behind the name."""


def process_report(name: str) -> Report:
    """Return what this process, called *name*, takes of the machine."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    return {
        "cim_process_cpu_seconds_total": [[[name], time.process_time()]],
        "cim_process_resident_memory_bytes": [[[name], resident]],
        "cim_process_open_fds": [[[name], len(os.listdir("/proc/self/fd"))]],  # noqa: PTH208 - no objects needed
        "cim_process_start_time_seconds": [[[name], _started_at()]],
    }


def _started_at() -> float:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_START_TIME])
    return round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _CLOCK_TICKS, 1)
