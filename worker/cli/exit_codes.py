"""The exit codes of `cim-worker`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Every status a command can end with; `meaning` explains it."""

    OK = 0
    UNEXPECTED = 1
    CONFIGURATION = 2
    BROKER_UNREACHABLE = 3
    STORE_UNREACHABLE = 4
    NOT_FOUND = 5
    REJECTED = 6

    @property
    def meaning(self) -> str:
        """One sentence for the documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "Success.",
    ExitCode.UNEXPECTED: "Unexpected error; `CIM_LOG_LEVEL=debug` shows the traceback.",
    ExitCode.CONFIGURATION: "Wrong usage or configuration: argument, setting, credentials, permissions or topology.",
    ExitCode.BROKER_UNREACHABLE: "The broker is unreachable, the connection was lost, or it accepts no messages.",
    ExitCode.STORE_UNREACHABLE: "The store is unreachable or the connection was lost.",
    ExitCode.NOT_FOUND: "What was asked for does not exist.",
    ExitCode.REJECTED: "At least one message was rejected, or a change was refused or lost against newer news.",
}
