"""Tests of several processes run beside each other, except those that have to be alone because they judge time."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Turns:
    """Locks in a folder that all processes of one run share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn. Whoever wants to be alone keeps the door shut meanwhile, so that its turn comes."""
        with (self._folder / "door").open("w") as door, (self._folder / "room").open("w") as room:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
            yield  # closing the files gives the locks back
