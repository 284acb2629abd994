"""The Conversations store as the pipeline needs it, and what became of one write. Values, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.failure import Failure
    from worker.pipeline.translate import Activity


class Written(StrEnum):
    """The store answered, and the answer is known to be durable."""

    STORED = "stored"
    """A new document, acknowledged by a majority."""
    DUPLICATE = "duplicate"
    """The store already holds this event with the same digest."""
    CONFLICT = "conflict"
    """The store holds another payload under this event id; it was not overwritten."""


@dataclass(frozen=True, slots=True)
class Refused:
    """This one document was not stored, and its neighbours are not concerned."""

    failure: Failure
    """Why: permanent, or unknown when the server gave a reason nobody listed."""


StoreResult = Written | Refused
"""The result of storing one activity."""


class ActivityWriter(Protocol):
    """Writes activities to the Conversations store, each at most once. Raises `AdapterError` when it cannot."""

    async def store(self, activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        """Return what became of each, in order; all of it durable."""
