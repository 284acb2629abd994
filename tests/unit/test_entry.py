"""A worker process ends when its work is done, whatever a library has left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from worker.process import entry
from worker.process.signals import StopSignals
from worker.settings import load_settings

class LeavesATask:
    def __init__(self, *_arguments, **_options): ...
    def report(self): raise OSError
    def stop(self): ...
    async def run(self):
        self.task = asyncio.create_task(self.stubborn(int(sys.argv[1])))
        await asyncio.sleep(60 if sys.argv[3] == "orphan" else 0)
    async def stubborn(self, times):
        while times:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                times -= 1

entry.Worker = LeavesATask
entry._END_SECONDS = entry.STUCK_SECONDS = float(sys.argv[2])
signals, reports = StopSignals(signal.SIGTERM), os.pipe()[1]
settings = load_settings(drain_grace_ms=0)
parent = 1_000_000_000 if sys.argv[3] == "orphan" else os.getppid()
entry.run_process(settings, 0, signals, parent=parent, reports=reports, pause=None)
print("ended in order")
"""


@pytest.mark.parametrize(
    ("swallowed", "longest", "state", "code", "said"),
    [
        pytest.param(
            *(2, 60, "", 0, "ended in order"), id="one that swallows its cancellation, as wait_for of Python 3.11 does"
        ),
        pytest.param(1_000_000, 0.5, "", 1, "worker_end_forced", id="one that never ends"),
        pytest.param(0, 0.5, "orphan", 1, "worker_end_forced", id="work that does not end, and no supervisor"),
    ],
)
def test_a_process_ends_though_a_task_was_left_behind(
    swallowed: int, longest: float, state: str, code: int, said: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(swallowed), str(longest), state]
    began = time.monotonic()
    ended = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=50, check=False)

    assert (ended.returncode, said in ended.stdout + ended.stderr) == (code, True), ended.stderr
    assert time.monotonic() - began < 40
