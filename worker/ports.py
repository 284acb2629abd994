"""Broker and world in our words: deliveries, publishes, the clock, and where things are reported. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from worker.cim import Identity
    from worker.codes import Code
    from worker.failure import Failure
    from worker.outcome import Outcome


@dataclass(slots=True)
class Properties:
    """AMQP message properties. Times are epoch seconds; header values are plain Python, timestamps as integers."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    damaged: bool = False
    """Whether some of it could not be read; what is here was read before the damage."""


class Delivery(Protocol):
    """What RabbitMQ handed us."""

    tag: int
    """What the broker knows it by, on the AMQP channel it came on."""
    body: bytes
    exchange: str
    routing_key: str
    queue: str
    redelivered: bool

    received_at: float
    """Monotonic seconds."""

    @property
    def properties(self) -> Properties:
        """The message's properties; reading them never raises."""

    @property
    def prior_deliveries(self) -> int:
        """How often the broker says it delivered this before; a hint, for caution only."""


class Consumer(Protocol):
    """Takes deliveries from one queue, at most `prefetch` unacknowledged. Single use."""

    cancelled: asyncio.Event
    """Set when nothing will be delivered any more."""

    async def start(self, prefetch: int) -> None:
        """Begin to take deliveries with at most *prefetch* unacknowledged."""

    async def stop(self) -> None:
        """Stop taking deliveries; those already here stay, and can still be settled. See `may_deliver`."""

    async def resize(self, prefetch: int) -> None:
        """Change the window, without waiting for the broker."""

    @property
    def is_open(self) -> bool:
        """Whether deliveries can still be settled."""

    @property
    def may_deliver(self) -> bool:
        """Whether deliveries may still come."""

    @property
    def unsettled(self) -> int:
        """Deliveries that are not acknowledged yet, waiting ones included."""

    @property
    def waiting(self) -> int:
        """Deliveries that arrived and were not taken yet."""

    async def wait_for_arrival(self) -> None:
        """Wait until a delivery is waiting or the consumer has ended."""

    async def wait_for(self, count: int, timeout: float) -> None:  # noqa: ASYNC109 - a deadline without an exception
        """Wait until *count* deliveries are waiting, the consumer has ended or *timeout* seconds have passed."""

    def take(self, max_count: int, max_bytes: int) -> Sequence[Delivery]:
        """Take waiting deliveries in their order: up to *max_count*, and *max_bytes* of bodies but at least one."""

    def settle(self, delivery: Delivery) -> None:
        """Acknowledge *delivery* soon: its effect is proven."""

    async def hand_back(self, *, failed: bool = False) -> Sequence[Delivery]:
        """End: return everything unsettled to the queue, and tell the broker about the rest. Returns what went back.

        What went back because the work *failed* counts towards the queue's delivery limit on every broker version.
        """

    async def close(self) -> None:
        """End the channel; what is unsettled goes back with it."""


class Confirmation(StrEnum):
    """What became of one publish."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    """No queue took it. The broker confirms such a publish too, after the return."""
    NACKED = "nacked"
    TOO_LARGE = "too_large"
    """Larger than the broker takes; it was not published."""
    UNKNOWN = "unknown"
    """The connection ended before the confirm: it may have arrived or not."""


class ReceiptResult(StrEnum):
    """What became of one receipt."""

    SENT = "sent"
    """Confirmed by the broker. Nobody can tell whether the reader of a direct reply-to was still there."""
    ADDRESS_REFUSED = "address_refused"
    """The `reply_to` is no place that receipts may go to."""
    QUEUE_GONE = "queue_gone"
    """There is no queue of that name."""
    QUEUE_REFUSED = "queue_refused"
    """The queue is full and rejects."""
    DROPPED = "dropped"
    """Too many waited for a broker that took none."""
    UNKNOWN = "unknown"
    """The AMQP channel ended before the confirm."""


class Outgoing(NamedTuple):
    """One message to publish: mandatory, persistent, confirmed."""

    exchange: str
    routing_key: str
    message_id: str
    """A return is matched by it, for a return carries no delivery tag."""
    body: bytes
    correlation_id: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: int | None = None
    """Epoch seconds."""
    content_type: str | None = "application/json"
    content_encoding: str | None = None
    headers: Mapping[str, str | int] | None = None
    reply_to: str | None = None


End = tuple[float, "str | None", "str | None", "float | None"]
"""What is counted of a delivery that ended well: seconds since it was received, why it was stored, its body type, and
seconds since it happened, as its publisher says."""


class EventPublisher(Protocol):
    """Publishes and waits until the effect of each publish is known."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        """Return the confirmations in the order of *messages*; `UNKNOWN` for those a lost connection left open."""


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Return epoch milliseconds."""

    def monotonic(self) -> float:
        """Return monotonic seconds."""


class Reporter(Protocol):
    """Is told of everything that must be counted and logged. No method raises."""

    def settled(
        self,
        outcome: Outcome,
        seconds: float,
        code: Code | None = None,
        reason: str | None = None,
        *,
        body_type: str | None = None,
        age_seconds: float | None = None,
    ) -> None:
        """One delivery ended in *outcome*, *seconds* after it was received and *age_seconds* after it happened.

        *reason* says why it was stored.
        """

    def settled_all(self, outcome: Outcome, ends: Sequence[End]) -> None:
        """Deliveries ended well and together, all in *outcome*."""

    def published(self, what: str, confirmations: Sequence[Confirmation], seconds: float) -> None:
        """Messages were published (events, copies, journal), and after *seconds* the effect of each was known."""

    def stage(self, name: str, seconds: float) -> None:
        """One step of a batch (read, lookup, store) took *seconds*."""

    def journal_missed(self, count: int) -> None:
        """Outcomes could not be written to the journal."""

    def receipts(self, result: ReceiptResult, count: int) -> None:
        """Receipts that publishers asked for ended in *result*."""

    def batch(self, lane: str, size: int, seconds: float, **counts: int) -> None:
        """One bundle of work was done."""

    def letter(self, failure: Failure, identity: Identity, attempt: int, *, retry: bool) -> None:
        """One delivery was given up, or retried."""

    def held(self) -> None:
        """One delivery waits in the process until it is tried again, in front of the later ones of its key."""

    def contradiction(self, kind: str) -> None:
        """The anchors of one message contradict each other; *kind*: the one that did not count."""

    def info(self, what: str, **facts: object) -> None:
        """Something worth a line in the log."""

    def warn(self, what: str, **facts: object) -> None:
        """Something an operator should see."""

    def dependency_down(
        self, name: str, failure: Failure, *, address: str, reason: str, outage_seconds: float | None
    ) -> None:
        """An outage began (None), or has lasted *outage_seconds* and goes on."""

    def dependency_up(self, name: str, outage_seconds: float, times: int) -> None:
        """An outage is over in which the dependency failed so many *times*, each time soon after it had come back."""
