"""MongoDB-compatible servers run for this process only: started, stopped, killed, frozen and restarted at will.

The data stay in the folder that was given; a restarted server has the same port and the same data.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

from tests.services.mongod import answers
from tests.services.processes import KeptProcess, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

START_TIMEOUT_SECONDS: Final = 60.0
STOP_TIMEOUT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 10


class StoreStartError(Exception):
    """The server did not come up; the text ends with the last lines of its log."""


class LocalStore(Protocol):
    """A server that tests may treat badly."""

    @property
    def uri(self) -> str:
        """MongoDB URI; the same for the whole life of the object."""

    @property
    def describe(self) -> str:
        """What this server is, in one line."""

    def start(self) -> None:
        """Start it and wait until it answers a ping. Raises `StoreStartError`."""

    def stop(self) -> None:
        """End it in order; nothing happens when it is not running."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing (SIGSTOP)."""

    def thaw(self) -> None:
        """Let a frozen server go on."""

    def restart(self) -> None:
        """Stop it if it runs, then start it on the same port with the same data."""


class StoreProcess:
    """A `LocalStore` made of one command.

    Args:
        name: what it is, for people.
        command: builds the command line from the port to listen on, on loopback.
        folder: where its log goes; exists, and belongs to the caller.
    """

    def __init__(self, name: str, command: Callable[[int], Sequence[str]], folder: Path) -> None:
        self._port = free_ports(1)[0]
        self._command = command
        self._log = folder / "server.log"
        self._process: KeptProcess | None = None
        self.describe = name

    @property
    def uri(self) -> str:
        """MongoDB URI of the server."""
        return f"mongodb://127.0.0.1:{self._port}/"

    @property
    def pid(self) -> int:
        """Process id of the running server; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it and wait until it answers a ping. Raises `StoreStartError`."""
        process = KeptProcess(self._command(self._port), environment=os.environ, log=self._log)
        self._process = process
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not answers(self.uri):
            if not process.is_running or time.monotonic() > deadline:
                self.kill()
                raise StoreStartError(f"{self.describe} did not start:\n{self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it in order; nothing happens when it is not running."""
        if self._process is not None:
            self._process.terminate(STOP_TIMEOUT_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End it with SIGKILL; nothing happens when it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """Stop it from answering; its connections stay open."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._send(signal.SIGCONT)

    def fill_disk(self, limit_bytes: int = 1 << 20) -> None:
        """Let none of its files grow beyond *limit_bytes*: to the server, the disk is full."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))

    def empty_disk(self) -> None:
        """Let its files grow again."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def restart(self) -> None:
        """Stop it if it runs, then start it on the same port with the same data. Raises `StoreStartError`."""
        self.stop()
        self.start()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def embedded_store(data_dir: Path) -> StoreProcess:
    """Return nx-27017 over SQLite files in `data_dir`, not started: for trying out and testing on one machine only."""
    pid_file = data_dir / "server.pid"

    def command(port: int) -> list[str]:
        # What a killed server left behind would keep the next one from starting once the number is in use again.
        pid_file.unlink(missing_ok=True)
        options = ["--host", "127.0.0.1", "-p", str(port), "--data-dir", str(_made(data_dir / "data"))]
        files = ["--log-file", str(data_dir / "nx-27017.log"), "--pid-file", str(pid_file)]
        return [sys.executable, "-c", "from nx_27017 import main; main()", *options, *files]

    return StoreProcess("embedded nx-27017 (one machine, for trying out and testing only)", command, data_dir)


def mongod_store(data_dir: Path) -> StoreProcess | None:
    """Return this machine's `mongod` with its data in `data_dir`, not started; None if there is no such program."""
    program = shutil.which("mongod")
    if program is None:
        return None

    def command(port: int) -> list[str]:
        return [program, "--dbpath", str(_made(data_dir / "data")), "--port", str(port), "--bind_ip", "127.0.0.1"]

    return StoreProcess("mongod of this machine", command, data_dir)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
