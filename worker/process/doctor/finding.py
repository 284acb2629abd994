"""What an examination found. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    UNCHECKED = "not checked"
    """Could not be asked; the fix says what that needs."""
    WARNING = "warning"
    """Works, and will hurt some day."""
    PROBLEM = "problem"
    """Does not work, or loses messages."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    """broker, store or machine."""
    what: str
    state: State
    detail: str = ""
    """What was found, with figures."""
    fix: str = ""
    """What to do; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Area:
    """Makes findings of one area."""

    name: str

    def ok(self, what: str, detail: str = "") -> Finding:
        """It is as it should be."""
        return Finding(self.name, what, State.OK, detail)

    def unchecked(self, what: str, detail: str, fix: str) -> Finding:
        """Nobody could be asked."""
        return Finding(self.name, what, State.UNCHECKED, detail, fix)

    def risk(self, what: str, detail: str, fix: str) -> Finding:
        """It will hurt some day."""
        return Finding(self.name, what, State.WARNING, detail, fix)

    def problem(self, what: str, detail: str, fix: str) -> Finding:
        """It does not work, or loses messages."""
        return Finding(self.name, what, State.PROBLEM, detail, fix)
