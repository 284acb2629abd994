"""A real worker pool for demos and proofs: `cim-worker run` as a child that never outlives this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from worker.sandbox.processes import KeptProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class WorkerPool:
    """One supervisor with its worker processes.

    Args:
        processes: how many workers.
        variables: `CIM_…` settings, on top of this process's environment.
        log: where their log lines go, as JSON (appended).
    """

    def __init__(self, processes: int, variables: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._process = KeptProcess(
            [sys.executable, "-m", "worker", "run", "--processes", str(processes)],
            environment={**os.environ, "CIM_LOG_FORMAT": "json", **variables},
            log=log,
        )

    @property
    def is_running(self) -> bool:
        """Whether the supervisor has not ended."""
        return self._process.is_running

    def stop(self, timeout: float) -> int:
        """Ask the supervisor, and it alone, to drain; return its exit status. Kill it after *timeout* seconds."""
        if self.is_running:
            # The supervisor tells its children; the whole group would hear it twice, and the second means: at once.
            os.kill(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self._process.kill()

    def kill(self) -> None:
        """End all of it at once."""
        if self.is_running:
            self._process.kill()

    def counted(self, outcome: str) -> int:
        """Return how often the workers say they had *outcome*; they say it when they stop."""
        lines = [json.loads(line) for line in self._log.read_bytes().splitlines() if line.startswith(b"{")]
        return sum(line.get(outcome, 0) for line in lines if line.get("event") == "worker_stopped")

    def last_words(self, lines: int = 10) -> str:
        """Return the last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
