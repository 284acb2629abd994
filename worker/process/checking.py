"""Whether a session is checked before it takes deliveries, or while it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.rabbit.errors import BrokerUnreachable, ConfirmTimeout, ConnectionLost, NodeSilent

if TYPE_CHECKING:
    from worker.ports import Clock
    from worker.rabbit.errors import BrokerError

_HOLDS_SECONDS: Final = 5.0
"""How long after the loss of a session that had been checked the next one begins without waiting for its checks."""


class Checking:
    """Remembers, from one session to the next, that all the work needs was found on the broker.

    The checks ask some thirty things one after the other, and some of them wait for an election when a node has died:
    live events would wait for that.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._has_passed = False
        self._holds_until = 0.0

    @property
    def is_due_first(self) -> bool:
        """Whether the session has to be checked before it takes deliveries."""
        return self._clock.monotonic() >= self._holds_until

    def passed(self) -> None:
        """Note that this session has found all it needs."""
        self._has_passed = True

    def missed(self) -> None:
        """Note that something is missing all the same."""
        self._has_passed = False

    def ended(self, error: BrokerError) -> None:
        """Note that this session ended with *error*. Only one that was cut off says nothing against the next."""
        if self._has_passed and isinstance(error, (ConnectionLost, ConfirmTimeout, NodeSilent)):
            self._holds_until = self._clock.monotonic() + _HOLDS_SECONDS
        elif not isinstance(error, BrokerUnreachable):
            self._holds_until = 0.0
        self._has_passed = False
