"""Which broker user may send in whose name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.codes import Code, Problem
from worker.dead_letters.provenance import published_by

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from worker.cim import CimMessage
    from worker.ports import Delivery


class Senders:
    """Which broker user may send in whose name."""

    def __init__(self, table: Mapping[str, frozenset[str]], trusted: Collection[str | None]) -> None:
        self._table = table
        self.trusted = trusted
        """The users whose copies are believed, as the broker vouches for them."""
        self._listed = frozenset().union(*table.values()) if table else frozenset()

    def problem(self, message: CimMessage, delivery: Delivery) -> Problem | None:
        """Return what is wrong with the sender, or None. Copies are believed only if a trusted user published them."""
        if not self._table:
            return None
        user = delivery.properties.user_id
        if user is not None and user in self.trusted:
            user = published_by(delivery)
        allowed = self._table.get(user or "")
        if message.sender_id in allowed if allowed is not None else message.sender_id not in self._listed:
            return None
        return Problem(
            Code.SENDER_NOT_ALLOWED,
            "/header/sender/id",
            "A sender id that belongs to the broker user who publishes it.",
        )
