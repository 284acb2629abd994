"""The demo's worker pool: `cim-worker run` as a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OWN = {"CIM_LOG_FORMAT": "json", "CIM_HTTP_PORT": "0", "CIM_RABBITMQ_URL_FILE": "", "CIM_MONGODB_URI_FILE": ""}
"""What must not be as for the pool that may run on this machine: its port, and where addresses come from."""


class WorkerPool:
    """One supervisor with its worker processes.

    Args:
        processes: how many workers.
        variables: `CIM_…` settings, on top of this process's environment.
        log: where their log lines go, as JSON (appended).
    """

    def __init__(self, processes: int, variables: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "worker", "run", "--processes", str(processes)],
                env={**os.environ, **_OWN, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the supervisor has not ended."""
        return self._process.poll() is None

    def stop(self, timeout: float) -> int:
        """Ask the supervisor, and it alone, to drain; return its exit status. Kill it after *timeout* seconds."""
        if self.is_running:
            # The supervisor tells its children; the whole group would hear it twice, and the second means: at once.
            os.kill(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait(timeout)

    def kill(self) -> None:
        """End all of it at once."""
        if self.is_running:
            os.killpg(self._process.pid, signal.SIGKILL)

    def counted(self, outcome: str) -> int:
        """Return how often the workers say they had *outcome*; they say it when they stop."""
        lines = [json.loads(line) for line in self._log.read_bytes().splitlines() if line.startswith(b"{")]
        return sum(line.get(outcome, 0) for line in lines if line.get("event") == "worker_stopped")

    def last_words(self, lines: int = 10) -> str:
        """Return the last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
