"""What a command is given in a file or on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode


def given(file: str) -> bytes:
    """Return what is in *file*, or on standard input for `-`. Raises `CommandError` for a file that cannot be read."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CommandError(ExitCode.CONFIGURATION, f"cannot read {file}: {error.strerror}") from None
