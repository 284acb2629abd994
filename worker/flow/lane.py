"""A lane: work of one kind, handled in bundles, a few at once. Slow work waits here and not in front of others."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.flow.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")


class Lane(Generic[T]):
    """Bundles what is added while earlier bundles are in work. The window bounds it, for all of it is unacked."""

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], Coroutine[None, None, None]],
        *,
        bundle: int,
        at_once: int,
        size_of: Callable[[T], int],
        bundle_bytes: int,
        on_bug: Callable[[BaseException], None],
        queued_at: Callable[[T], float] = lambda _item: 0.0,
    ) -> None:
        """Give bundles of at most *bundle* items and *bundle_bytes* (but at least one item) to *handle*.

        A handler settles, or adds again, what it was given; *on_bug* is told of one that raises instead. *queued_at*
        tells since when an item waits, in seconds of whatever clock.
        """
        self.name = name
        self._handle = handle
        self.bundle = bundle
        """Most items in one bundle; may be changed at any time."""
        self.most_in_work: int | None = None
        """Most items that handlers have at once, None for as many as their bundles hold; may be changed at any time."""
        self._at_once = at_once
        self._size_of = size_of
        self._bundle_bytes = bundle_bytes
        self._on_bug = on_bug
        self._queued_at = queued_at
        self._waiting: deque[T] = deque()
        self._in_hand = 0
        self._cancelled = False
        self._tasks: dict[asyncio.Task[None], float] = {}
        """By bundle in work, in the order of their beginning, since when its first item waits; items are the handler's
        alone, for what it has done with is to be forgotten."""

    def __len__(self) -> int:
        """Items that wait or are in work."""
        return len(self._waiting) + self._in_hand

    @property
    def first_waiting(self) -> T | None:
        """The item that has waited longest, or None when none waits."""
        return self._waiting[0] if self._waiting else None

    @property
    def in_work_since(self) -> float | None:
        """When the first item of the bundle that has been in work longest was queued, or None when none is."""
        return next(iter(self._tasks.values()), None)

    def add(self, items: Iterable[T]) -> None:
        """Add work. Starts it at once if the lane has a hand free. Once cancelled, the lane takes nothing more."""
        if self._cancelled:
            return
        self._waiting.extend(items)
        while self._waiting and len(self._tasks) < self._at_once and self._may_begin:
            self._start()

    def take_waiting(self) -> list[T]:
        """Take back what no handler has begun."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def take_newest(self, most: int) -> list[T]:
        """Take back at most *most* of what no handler has begun: those that came last, in the order they came."""
        return [self._waiting.pop() for _ in range(min(most, len(self._waiting)))][::-1]

    async def cancel(self) -> None:
        """Drop what waits and cancel what is in work; on return nothing of it runs any more."""
        self._cancelled = True
        self._waiting.clear()
        await cancel_and_wait(self._tasks)

    @property
    def _may_begin(self) -> bool:
        return self.most_in_work is None or self._in_hand < self.most_in_work

    def _start(self) -> None:
        bundle = self._next_bundle()
        size, queued_at = len(bundle), self._queued_at(bundle[0])
        self._in_hand += size
        task = asyncio.create_task(self._handle(bundle), name=f"lane {self.name}")
        self._tasks[task] = queued_at
        task.add_done_callback(lambda done: self._done(done, size))

    def _done(self, task: asyncio.Task[None], size: int) -> None:
        del self._tasks[task]
        self._in_hand -= size
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_bug(error)
        self.add(())

    def _next_bundle(self) -> list[T]:
        bundle: list[T] = []
        size = 0
        most = self.bundle if self.most_in_work is None else min(self.bundle, self.most_in_work - self._in_hand)
        while self._waiting and len(bundle) < most:
            size += self._size_of(self._waiting[0])
            if bundle and size > self._bundle_bytes:
                break
            bundle.append(self._waiting.popleft())
        return bundle
