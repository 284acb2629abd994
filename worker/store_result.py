"""What became of one write to the Conversations store. Values, not exceptions; no driver needed to know them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.failure import Failure


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
