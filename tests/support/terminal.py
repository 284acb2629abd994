"""Runs the real `cim-worker` on a terminal of a given width, as a person would see it."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

from tests.support.command import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def on_terminal(*arguments: str, columns: int, answers: str = "", **variables: str) -> str:
    """Run a command on a terminal *columns* wide and return everything it showed, codes included.

    *answers* are typed at its beginning: the lines that it will ask for.
    """
    return _shown(arguments, columns, variables, with_errors=True, answers=answers)


def printed_on_terminal(*arguments: str, columns: int, **variables: str) -> str:
    """Do the same, and return only what it wrote to its standard output: no questions and no progress."""
    return _shown(arguments, columns, variables, with_errors=False)


def _shown(
    arguments: Sequence[str], columns: int, variables: Mapping[str, str], *, with_errors: bool, answers: str = ""
) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    surroundings = {**environment(), "TERM": "xterm-256color"}
    del surroundings["COLUMNS"], surroundings["NO_COLOR"]
    surroundings |= variables
    errors = theirs if with_errors else subprocess.DEVNULL
    with subprocess.Popen([COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=errors, env=surroundings):
        os.close(theirs)
        os.write(ours, answers.encode())
        shown = _read_all(ours)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _read_all(terminal: int) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            parts.append(os.read(terminal, 65536))
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that the other end is closed
                raise
            return b"".join(parts)
