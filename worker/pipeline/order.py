"""Keeping the order of activities with one routing key: the next is begun when the one before it has ended.

What is to be tried again stays here meanwhile, unacknowledged, and so do those behind it: whatever ends this process,
the broker brings them back in their order, which it could not with a copy in a retry tier. That lasts sixty seconds and
a hundred messages at most; then the order of that key is given up, which is counted. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from worker import contract
from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.pipeline.settlement import Settled
    from worker.ports import Delivery, Outgoing

LONGEST_SECONDS: Final = 60.0
MOST_HELD: Final = 100
LONGEST_WAIT_SECONDS: Final = 1200.0
"""How long what came from the waiting room waits in hand when the store goes away again: back there it would be behind
later ones. The broker's own limit is half an hour."""
_WAIT_SECONDS: Final = 1.0
MOST_ENDS: Final = 5
"""What came so often before, for sessions ended, goes back there all the same: the broker has a limit for that, too."""
_WINDOW: Final = 500
"""Deliveries a process may hold: their number cannot change with deliveries in hand, and a death counts for all."""
_SHARE: Final = 200
"""Of one partition at least so many, where `CIM_PREFETCH` allows them: half of them may wait for a retry."""
_ROOM: Final = 50
"""The same for the waiting room, whose messages stay in hand when the store goes away again."""
_ROOM_PART: Final = 8
"""The waiting room gets at most this part of `CIM_PREFETCH`."""


class Reason(StrEnum):
    """Why the order of a key was given up, as the log says it."""

    TOO_LONG = "its retry would be more than 60 s after it came"
    TOO_MANY = "more than 100 messages wait for its retry"
    TOO_MANY_IN_ALL = "retries hold half of what a process may hold of the queue"
    TOO_LARGE = "retries hold a quarter of CIM_MAX_BYTES_IN_FLIGHT"
    IN_PROGRESS = "it has been in progress for more than 60 s"
    WAITS_AGAIN = "it waited for the store and waits once more, behind later ones"


class Windows(NamedTuple):
    """How many deliveries one process may hold where order is kept."""

    partitions: int
    """Of all partitions together."""
    partition: int
    """Of each."""
    room: int
    """Of the waiting room."""

    @classmethod
    def of(cls, prefetch: int, partitions: int) -> Windows:
        """Share out a setting of *prefetch* over so many *partitions*."""
        total = min(prefetch, max(_WINDOW, _SHARE * partitions))
        return cls(total, max(1, total // partitions), max(1, min(_ROOM, prefetch // _ROOM_PART)))

    def most_held(self, queue: str) -> int:
        """Return how many of *queue* may be held for retries: the other half is for what needs none."""
        return (self.room if queue == contract.WAITING else self.partition) // 2


@dataclass(slots=True, eq=False)
class TriedAgain:
    """A delivery on another try: with what its copy would have brought back, and settled as what the broker gave us."""

    tag: int
    body: bytes
    exchange: str
    routing_key: str
    queue: str
    redelivered: bool
    received_at: float
    prior_deliveries: int
    properties: Properties


class _Retry(NamedTuple):
    """What waits in hand for another try."""

    delivery: Delivery
    copy: Outgoing
    send: Callable[[], object]
    """Sends the copy to its tier after all."""
    timer: asyncio.TimerHandle
    is_counted: bool
    """Whether it holds others for its own sake: what waits for the store is bounded by the waiting room's window."""


@dataclass(slots=True, eq=False)
class _Key:
    """What is known of one routing key while a message of it has not ended."""

    name: tuple[bool, str]
    first: Delivery
    """The one that is in progress, or waits for another try."""
    began_at: float
    held: deque[Delivery] = field(default_factory=deque)
    """Those that came later, in their order."""
    retry: _Retry | None = None


class KeyOrder:
    """Says which deliveries may begin. Lives as long as one broker session; told of every outcome, as an observer.

    What comes from the waiting room has an order of its own: nothing new waits for it.
    """

    def __init__(
        self,
        *,
        key_of: Callable[[Delivery], str],
        windows: Windows,
        most_bytes: int,
        seconds_of: Callable[[str], float],
        own_user: str | None,
        on_given_up: Callable[[Delivery, str, Reason], None],
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        """Hold at most *most_bytes* for retries, whose delays last *seconds_of* their name.

        *own_user* is what the broker vouches for on our copies. *on_given_up* is told of each key given up: a delivery
        of it, the key, and why.
        """
        self.windows = windows
        self._key_of = key_of
        self._most_bytes = most_bytes
        self._seconds_of = seconds_of
        self._own_user = own_user
        self._on_given_up = on_given_up
        self._longest_seconds = longest_seconds
        self._keys: dict[tuple[bool, str], _Key] = {}
        self._begun: dict[Delivery, _Key] = {}
        self._ready: list[Delivery] = []
        self._held: Counter[str] = Counter()
        """By queue: deliveries that wait for a retry, the retried ones included."""
        self._held_bytes = 0
        self._is_ended = False
        self.begin: Callable[[Sequence[Delivery]], object] = lambda _batch: None
        """Called with deliveries that were held and may begin now."""
        self.on_followed: Callable[[Delivery], object] = lambda _delivery: None
        """Called with what is in progress when a later one of its key has come."""

    @property
    def begun(self) -> int:
        """Deliveries that have begun and not ended; what waits for another try is none of them."""
        return len(self._begun)

    def is_followed(self, delivery: Delivery) -> bool:
        """Tell whether a later one of its key waits for the end of *delivery*."""
        key = self._begun.get(delivery)
        return key is not None and key.first is delivery and bool(key.held)

    def admit(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Return those of *batch* that may begin at once; the others are held."""
        return [delivery for delivery in batch if self._may_begin(delivery)]

    def settled(self, settled: Settled) -> None:
        """Take note of an outcome: the next of its key may begin."""
        delivery = settled.delivery
        key = self._begun.pop(delivery, None)
        if key is None:
            return
        if key.first is delivery:  # otherwise its order was given up, and others have begun since
            self._next(key)

    def hold(self, delivery: Delivery, copy: Outgoing, delay: str, send: Callable[[], object]) -> bool:
        """Keep *delivery* in hand until it is tried again after *delay*, as its *copy*; say whether it is kept.

        If not, the copy has to go to its tier, and the order of its key is given up. That may still come while it is
        kept: then *send* is called.
        """
        key = self._begun.get(delivery)
        if key is None or key.first is not delivery:
            return False
        seconds = self._seconds_of(delay)
        reason = Reason.TOO_LONG if self._age(delivery) + seconds > self._longest_seconds else None
        if not self._is_ended and reason is None:
            self._begin_retry(key, copy, send, seconds, is_counted=True)
            reason = self._excess(key)
            if reason is not None:
                self._end_retry(key)
        return self._is_kept(key, delivery, reason)

    def wait(self, delivery: Delivery, copy: Outgoing, send: Callable[[], object]) -> bool:
        """Keep *delivery*, which came from the waiting room, in hand while the store is away; otherwise as `hold`."""
        key = self._begun.get(delivery)
        if key is None or key.first is not delivery:
            return False
        is_old = self._age(delivery) > LONGEST_WAIT_SECONDS or delivery.prior_deliveries >= MOST_ENDS
        if not self._is_ended and not is_old:
            self._begin_retry(key, copy, send, _WAIT_SECONDS, is_counted=False)
        return self._is_kept(key, delivery, Reason.WAITS_AGAIN if is_old else None)

    def end(self) -> None:
        """Begin nothing any more: what is held goes back to its queue."""
        self._is_ended = True
        self._ready.clear()
        for key in self._keys.values():
            if key.retry is not None:
                key.retry.timer.cancel()

    def _may_begin(self, delivery: Delivery) -> bool:
        name = delivery.queue == contract.WAITING, self._key_of(delivery)
        key = self._keys.get(name)
        if key is None:
            self._keys[name] = self._begun[delivery] = _Key(name, delivery, asyncio.get_running_loop().time())
            return True
        key.held.append(delivery)
        if key.retry is not None:
            if key.retry.is_counted:
                self._held[delivery.queue] += 1
                self._held_bytes += len(delivery.body)
                if reason := self._excess(key):
                    self._give_up(key, reason)
        elif asyncio.get_running_loop().time() - key.began_at > self._longest_seconds:
            self._on_given_up(key.first, name[1], Reason.IN_PROGRESS)
            self._next(key)
        else:
            self.on_followed(key.first)
        return False

    # -- retries --------------------------------------------------------------------------------------------------

    @staticmethod
    def _age(delivery: Delivery) -> float:
        return asyncio.get_running_loop().time() - delivery.received_at

    def _is_kept(self, key: _Key, delivery: Delivery, reason: Reason | None) -> bool:
        """Tell whether *delivery* is kept: not for a *reason* to give its order up.

        At the end it goes back to its place with the channel: for whoever comes next it was never tried.
        """
        if reason is not None and not self._is_ended:
            self._on_given_up(delivery, key.name[1], reason)
            return False
        del self._begun[delivery]
        return True

    def _begin_retry(
        self, key: _Key, copy: Outgoing, send: Callable[[], object], seconds: float, *, is_counted: bool
    ) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._try_again, key)
        key.retry = _Retry(key.first, copy, send, timer, is_counted)
        self._count(key, 1)

    def _excess(self, key: _Key) -> Reason | None:
        """Say why what waits for the retry of *key* is too much, if it is."""
        if len(key.held) > MOST_HELD:
            return Reason.TOO_MANY
        if self._held[key.first.queue] > self.windows.most_held(key.first.queue):
            return Reason.TOO_MANY_IN_ALL
        return Reason.TOO_LARGE if self._held_bytes > self._most_bytes else None

    def _count(self, key: _Key, sign: int) -> None:
        if key.retry is None or not key.retry.is_counted:
            return
        for delivery in (key.first, *key.held):
            self._held[delivery.queue] += sign
            self._held_bytes += sign * len(delivery.body)

    def _end_retry(self, key: _Key) -> _Retry:
        self._count(key, -1)
        retry, key.retry = key.retry, None
        assert retry is not None  # noqa: S101 - the callers have looked
        retry.timer.cancel()
        return retry

    def _try_again(self, key: _Key) -> None:
        retry = self._end_retry(key)
        self._start(key, _tried_again(retry.delivery, retry.copy, self._own_user))

    def _give_up(self, key: _Key, reason: Reason) -> None:
        """Send what waits for its retry to its tier; when that has it, the next one begins."""
        retry = self._end_retry(key)
        self._on_given_up(retry.delivery, key.name[1], reason)
        self._begun[retry.delivery] = key
        retry.send()

    # -- the next -------------------------------------------------------------------------------------------------

    def _next(self, key: _Key) -> None:
        if not key.held:
            del self._keys[key.name]
        elif not self._is_ended:
            self._start(key, key.held.popleft())

    def _start(self, key: _Key, delivery: Delivery) -> None:
        key.first, key.began_at = delivery, asyncio.get_running_loop().time()
        self._begun[delivery] = key
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._flush)
        self._ready.append(delivery)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            self.begin(ready)


def _tried_again(delivery: Delivery, copy: Outgoing, own_user: str | None) -> TriedAgain:
    """Return *delivery* as its *copy* would come back, but in its place."""
    properties = Properties(
        content_type=copy.content_type,
        content_encoding=copy.content_encoding,
        headers=dict(copy.headers or {}),
        correlation_id=copy.correlation_id,
        message_id=copy.message_id,
        timestamp=copy.timestamp,
        type=copy.type,
        user_id=own_user,
        app_id=copy.app_id,
    )
    return TriedAgain(
        delivery.tag,
        delivery.body,
        delivery.exchange,
        delivery.routing_key,
        delivery.queue,
        delivery.redelivered,
        delivery.received_at,
        delivery.prior_deliveries,
        properties,
    )
