"""Child processes that never outlive this one: started through a keeper, signalled as a group."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.services import keeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Below the range from which Linux takes ports for outgoing connections: a client that dials a stopped server again and
# again could otherwise be given the very port it dials, connect to itself and keep the server from starting.
_PORTS = range(20_000, 32_000)


class KeptProcess:
    """One running command and everything it started, in a process group of its own.

    It ends when this process ends, even by SIGKILL. Standard output and error go to `log` (appended).
    `remove` names a folder that disappears with this process if this process has no time to remove it.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, remove: Path | None = None
    ) -> None:
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(remove or ""), *command],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline() or 0)
        """Process id of the command, which is also the id of its process group; 0 if it could not be started."""

    @property
    def is_running(self) -> bool:
        """Whether the command has not ended yet (a frozen one is running)."""
        return self._keeper.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; nothing happens when it has ended."""
        if self.pid and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def terminate(self, timeout: float) -> int:
        """Ask with SIGTERM, insist with SIGKILL after `timeout` seconds; return the exit status."""
        self.send_signal(signal.SIGCONT)
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End the group with SIGKILL, if it has not ended yet, and wait until it is gone; return the exit status."""
        self.send_signal(signal.SIGKILL)
        return self.wait(10.0)

    def wait(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the end; return the exit status (128 + signal when killed).

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        status = self._keeper.wait(timeout)
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()
        return status


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback TCP ports that nothing listens on right now."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
