"""Runs one command for a parent process and ends it when the parent is gone, however the parent went.

Run as a script: `python keeper.py PARENT_PID FOLDER_TO_REMOVE COMMAND…` (an empty second argument removes nothing).
Prints the command's process id, then lives as long as the command does and exits with its status.

A keeper is needed because a parent that dies by SIGKILL cannot clean up, and because PR_SET_PDEATHSIG alone fires when
the *thread* that started the child ends. The keeper has one thread and watches the whole parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

PARENT_CHECK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the command in its own session; return its exit status, or 137 when the parent died first."""
    parent, folder, command = int(arguments[0]), arguments[1], arguments[2:]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=_die_with_keeper,  # noqa: PLW1509 - this process has one thread
    )
    print(child.pid, flush=True)
    ended_by_itself = _wait_for_end(child, parent)
    _kill_group(child.pid)
    status = child.wait()
    if ended_by_itself:
        return status if status >= 0 else 128 - status
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 128 + signal.SIGKILL


def _die_with_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_end(child: subprocess.Popen[bytes], parent: int) -> bool:
    """Return True when the command ended, False when the parent did."""
    child_ended = os.pidfd_open(child.pid)
    while os.getppid() == parent:
        readable, _, _ = select.select([child_ended, sys.stdin], [], [], PARENT_CHECK_SECONDS)
        if child_ended in readable:
            return True
        if sys.stdin in readable:
            return False
    return False


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
