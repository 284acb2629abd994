"""What the exit status of `cim-worker` says to scripts."""

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
    ExitCode.OK: "Fine.",
    ExitCode.UNEXPECTED: "Something nobody foresaw; `CIM_LOG_LEVEL=debug` shows the traceback.",
    ExitCode.CONFIGURATION: "Usage or configuration: an argument, a setting, credentials, permissions or the topology.",
    ExitCode.BROKER_UNREACHABLE: "The broker cannot be reached, or went away, or took no messages.",
    ExitCode.STORE_UNREACHABLE: "The store cannot be reached, or went away.",
    ExitCode.NOT_FOUND: "What was asked for does not exist.",
    ExitCode.REJECTED: "At least one message was rejected.",
}
