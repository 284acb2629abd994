"""The one accounted result of a delivery. Values, not exceptions; one place maps them to AMQP."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Every delivery ends in exactly one of these; received = sum of outcomes + in flight."""

    PUBLISHED = "published"
    """Confirmed by the broker and not returned."""
    STORED = "stored"
    """Written and acknowledged by a majority of the store."""
    DUPLICATE = "duplicate"
    """The store holds this event already."""
    WAITING = "waiting"
    """Needs the store, which is away or behind: a confirmed copy is in the waiting room, its attempt unspent."""
    RETRY = "retry"
    """A confirmed copy waits in a retry tier."""
    DEAD = "dead"
    """A confirmed copy with its reasons is in the dead-letter queue."""
    HANDED_BACK = "handed_back"
    """Given back to the broker unsettled: shutdown or unknown effect."""
