"""Keeping the order of activities with one routing key: the next is begun when the one before it has ended.

What is retried is away until its copy comes back, and those behind it are held here meanwhile: for sixty seconds and
a hundred messages at most. Then the order of that key is given up, which is counted. No I/O.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.dead_letters.provenance import is_copy
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.pipeline.settlement import Settled
    from worker.ports import Delivery

LONGEST_SECONDS: Final = 60.0
MOST_HELD: Final = 100


@dataclass(slots=True, eq=False)
class _Key:
    """What is known of one routing key while a message of it has not ended."""

    held: deque[Delivery] = field(default_factory=deque)
    """Those that came later, in their order."""
    timer: asyncio.TimerHandle | None = None
    """Runs while the first is away for a retry."""
    began_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class KeyOrder:
    """Says which deliveries may begin. Lives as long as one broker session; told of every outcome, as an observer."""

    def __init__(
        self,
        *,
        key_of: Callable[[Delivery], str],
        most_in_all: int,
        on_given_up: Callable[[], None],
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        """Hold at most *most_in_all* behind messages that are away; *on_given_up* is called for each key given up."""
        self._key_of = key_of
        self._most_in_all = most_in_all
        self._on_given_up = on_given_up
        self._longest_seconds = longest_seconds
        self._keys: dict[str, _Key] = {}
        self._begun: dict[Delivery, str] = {}
        self._ready: list[Delivery] = []
        self._is_ended = False
        self.begin: Callable[[Sequence[Delivery]], object] = lambda _batch: None
        """Called with deliveries that were held and may begin now."""

    @property
    def begun(self) -> int:
        """Deliveries that have begun and not ended."""
        return len(self._begun)

    def admit(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Return those of *batch* that may begin at once; the others are held."""
        return [delivery for delivery in batch if self._may_begin(delivery)]

    def settled(self, settled: Settled) -> None:
        """Take note of an outcome: the next of its key may begin, unless this one comes back."""
        name = self._begun.pop(settled.delivery, None)
        if name is None:
            return
        key = self._keys.get(name)
        if key is None:
            return  # its order was given up, and nothing waited any more
        if settled.outcome is Outcome.RETRY and not self._is_ended:
            key.timer = asyncio.get_running_loop().call_later(self._longest_seconds, self._give_up, name, key)
        else:
            self._next(name, key)

    def end(self) -> None:
        """Begin nothing any more: what is held goes back to its queue."""
        self._is_ended = True
        self._ready.clear()
        for key in self._keys.values():
            if key.timer is not None:
                key.timer.cancel()

    def _may_begin(self, delivery: Delivery) -> bool:
        name = self._key_of(delivery)
        key = self._keys.get(name)
        if key is None:
            self._keys[name] = _Key()
        elif key.timer is not None and _comes_back(delivery):
            key.timer.cancel()
            key.timer = None
        else:
            key.held.append(delivery)
            self._bound(name, key)
            return False
        self._begun[delivery] = name
        return True

    def _bound(self, name: str, key: _Key) -> None:
        """Give up the order of a key when too many wait for what is away, or too long for what is in hand."""
        if key.timer is None:
            if asyncio.get_running_loop().time() - key.began_at > self._longest_seconds:
                self._give_up(name, key)
            return
        away = [one for one in self._keys.values() if one.timer is not None]
        if len(key.held) > MOST_HELD or sum(len(one.held) for one in away) > self._most_in_all:
            self._give_up(name, key)

    def _give_up(self, name: str, key: _Key) -> None:
        if key.timer is not None:
            key.timer.cancel()
            key.timer = None
        if key.held:
            self._on_given_up()
        self._next(name, key)

    def _next(self, name: str, key: _Key) -> None:
        if not key.held:
            del self._keys[name]
        elif not self._is_ended:
            delivery = key.held.popleft()
            key.began_at = asyncio.get_running_loop().time()
            self._begun[delivery] = name
            if not self._ready:
                asyncio.get_running_loop().call_soon(self._flush)
            self._ready.append(delivery)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            self.begin(ready)


def _comes_back(delivery: Delivery) -> bool:
    """Tell whether a delivery was tried before: its copy was moved here from a retry tier."""
    return is_copy(delivery) and contract.FAILED_AT in delivery.properties.headers
