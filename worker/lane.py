"""A lane: work of one kind, handled in bundles, a few at once. Slow work waits here and not in front of others."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

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
    ) -> None:
        """Give bundles of at most *bundle* items and *bundle_bytes* (but at least one item) to *handle*."""
        self.name = name
        self._handle = handle
        self._bundle = bundle
        self._at_once = at_once
        self._size_of = size_of
        self._bundle_bytes = bundle_bytes
        self._waiting: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, items: Iterable[T]) -> None:
        """Add work. Starts it at once if the lane has a hand free."""
        self._waiting.extend(items)
        while self._waiting and len(self._tasks) < self._at_once:
            self._start()

    def cancel(self) -> None:
        """Drop what waits and cancel what is in work."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        task = asyncio.create_task(self._handle(self._next_bundle()), name=f"lane {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()  # a handler settles or adds again what it was given: an exception here is a bug, shown loudly
            self.add(())

    def _next_bundle(self) -> list[T]:
        bundle: list[T] = []
        size = 0
        while self._waiting and len(bundle) < self._bundle:
            size += self._size_of(self._waiting[0])
            if bundle and size > self._bundle_bytes:
                break
            bundle.append(self._waiting.popleft())
        return bundle
