"""From exceptions to one line on standard error and an exit code."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worker.cli.exit_codes import ExitCode
from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNREADABLE: Final = re.compile(r"[\ud800-\udfff]")
"""What Python puts in place of a byte it cannot decode."""


class CommandError(Exception):
    """A command cannot do what it was asked to. The text is one line and names the fix; no secrets in it."""

    def __init__(self, exit_code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def refuse_unreadable(arguments: Sequence[str]) -> None:
    """Raise `CommandError` for an argument that is not text in this terminal's encoding and not an existing file."""
    for number, argument in enumerate(arguments, 1):
        if not argument.isascii() and _UNREADABLE.search(argument) and not Path(argument).exists():
            text = f"argument {number} is not text in the encoding {sys.getfilesystemencoding()}"
            raise CommandError(ExitCode.CONFIGURATION, text)


def report(error: Exception) -> ExitCode:
    """Report *error* on standard error and return the code to exit with.

    Of unexpected exceptions only the type is shown, for their texts may repeat a message; the traceback comes
    with `CIM_LOG_LEVEL=debug`.
    """
    from worker.settings import ConfigurationError

    if isinstance(error, CommandError):
        say(str(error))
        return error.exit_code
    if isinstance(error, ConfigurationError):
        for line in str(error).splitlines():
            say(line)
        return ExitCode.CONFIGURATION
    if _is_debugging():
        traceback.print_exception(error)
    say(f"unexpected {type(error).__name__}; set CIM_LOG_LEVEL=debug to see the traceback")
    return ExitCode.UNEXPECTED


def _is_debugging() -> bool:
    from worker.settings import ConfigurationError, load_settings

    try:
        return load_settings().log_level == "debug"
    except ConfigurationError:
        return False


def say(line: str) -> None:
    """Write one line to standard error."""
    print(f"cim-worker: {printable(line)}", file=sys.stderr, flush=True)  # noqa: T201 - no log needed for one line
