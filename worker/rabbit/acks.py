"""Which deliveries may be acknowledged, and in how few frames. No I/O."""

from __future__ import annotations


class AckLedger:
    """Tracks the delivery tags of one AMQP channel and never acknowledges past an unfinished one.

    Tags count up from 1. `settle` records that a delivery's effect is proven; `take` returns what to acknowledge now.
    """

    def __init__(self) -> None:
        self._done_up_to = 0
        self._settled: set[int] = set()
        self._reported: set[int] = set()

    @property
    def held_back(self) -> int:
        """Settled deliveries that cannot be acknowledged in a prefix because an older one is unfinished."""
        return len(self._settled)

    def settle(self, *tags: int) -> None:
        """Mark *tags* as proven. Settling a tag twice does nothing."""
        self._settled.update(tag for tag in tags if tag > self._done_up_to)
        if self._reported:
            self._settled -= self._reported

    def give_back(self, tag: int) -> None:
        """Mark *tag* as already reported to the broker (returned), so that the prefix can pass it."""
        self._settled.discard(tag)
        if tag > self._done_up_to:
            self._reported.add(tag)

    def take(self, *, singles: bool = False) -> tuple[int | None, list[int]]:
        """Return what to acknowledge now: the end of a prefix (for `multiple`), and single tags.

        With *singles*, settled tags behind an unfinished one are returned one by one, so that one slow delivery does
        not hold back the window. A tag acknowledged singly never ends a prefix: the broker no longer knows it.
        """
        prefix = None
        if not self._reported and self._settled and max(self._settled) == self._done_up_to + len(self._settled):
            self._done_up_to = prefix = max(self._settled)  # the usual case: no tag is missing among them
            self._settled.clear()
            return prefix, []
        tag = self._done_up_to + 1
        while True:
            if tag in self._settled:
                self._settled.discard(tag)
                prefix = tag
            elif tag in self._reported:
                self._reported.discard(tag)
            else:
                break
            self._done_up_to = tag
            tag += 1
        alone: list[int] = []
        if singles and self._settled:
            alone = sorted(self._settled)
            self._reported.update(alone)
            self._settled.clear()
        return prefix, alone
