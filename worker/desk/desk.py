"""What every function of the desk works with, and who is working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.desk.errors import rejected, usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.conversations.ports import ConversationLookup
    from worker.desk.ports import Actions, Activities, Letters
    from worker.pipeline.reading import Reading
    from worker.ports import Clock


@dataclass(frozen=True, slots=True)
class Who:
    """Who is working."""

    user: str
    """The user of the operating system, or the one the web server vouches for."""
    acts_as: str = ""
    """The name given with `--as`."""

    def __str__(self) -> str:
        return f"{self.user} as {self.acts_as}" if self.acts_as else self.user


@dataclass(frozen=True, slots=True)
class Desk:
    """Store, registry and today's rules, for one person."""

    letters: Letters
    actions: Actions
    activities: Activities
    registry: ConversationLookup
    reading: Reading
    """Today's validation and translation, as the workers do it."""
    clock: Clock
    who: Who
    user: str
    """The broker user that replays are published by; the workers must trust it."""
    max_replays: int = 5
    """A letter that was replayed so often is refused, unless forced."""
    retention_ms: int = 30 * 86_400_000
    """How long a letter is kept after it was discarded or settled."""
    read_only: bool = False
    process: str = ""
    """Names this process in the jobs it runs."""
    has_ended: Callable[[str], bool] = lambda _process: False
    """Tells of a process that a job names whether it is known to have ended."""

    def check_may_change(self, reason: str, *, needs_reason: bool = True) -> None:
        """Raise `DeskError` when nothing may be changed, or not without a *reason*."""
        if self.read_only:
            raise rejected("CIM_READ_ONLY is set: the desk shows letters and changes nothing")
        if needs_reason and not reason.strip():
            raise usage("say why: --reason 'what was wrong, and what has changed since'")
