"""What one row of the matrix runs on: which broker, which store, which interpreter with which libraries."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class CannotStartError(Exception):
    """This row cannot be had here; the text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tests of a row run; what is not named is as in `make test` on this machine."""

    version: str
    """What was found, for the table."""
    python: tuple[str, ...] = (sys.executable,)
    """The command that runs Python with the tests' libraries."""
    environment: Mapping[str, str] = field(default_factory=dict)
    rabbitmq_root: Path | None = None
    store: str | None = None
    """A name of `tests.contract.store.servers`."""
