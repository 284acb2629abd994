"""What the desk cannot do, in one sentence that names the fix."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Whose turn it is."""

    USAGE = "usage"
    """What was asked for cannot be understood, or is not allowed."""
    NOT_FOUND = "not_found"
    """What was asked for is not there."""
    REJECTED = "rejected"
    """It was understood, and refused."""


class DeskError(Exception):
    """Nothing was changed. The text is one sentence with the fix, without payload."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def usage(text: str) -> DeskError:
    """Return the error of a question that cannot be understood."""
    return DeskError(Kind.USAGE, text)


def not_found(text: str) -> DeskError:
    """Return the error of something that is not there."""
    return DeskError(Kind.NOT_FOUND, text)


def rejected(text: str) -> DeskError:
    """Return the error of something that is refused."""
    return DeskError(Kind.REJECTED, text)
