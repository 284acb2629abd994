"""Publishes that wait for their confirm, kept as runs of consecutive tags. No I/O.

Confirms speak of tags, returns of message ids. Messages that are published together have tags in a row, and most
confirms are for many tags, so what is done for each message is kept to its id.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.ports import Confirmation


class Settling(Protocol):
    """Is told what became of messages that were published together."""

    def settle(self, index: int, count: int, confirmation: Confirmation) -> None:
        """Take what became of *count* messages from the one at *index* on. Does not raise or block."""


class Run:
    """Publishes with consecutive tags, and who is told what becomes of them."""

    __slots__ = ("first", "ids", "index", "window")

    def __init__(self, first: int, ids: Sequence[str | None], window: Settling, index: int) -> None:
        self.first = first
        """The first tag."""
        self.ids = ids
        """Their message ids; None for one whose return names its tag."""
        self.window = window
        self.index = index
        """Where the first of them stands in the window."""

    def part(self, first: int, end: int) -> Run:
        """Return the part of it with the tags from *first* to before *end*."""
        start = first - self.first
        return Run(first, self.ids[start : end - self.first], self.window, self.index + start)

    @property
    def end(self) -> int:
        """One more than its last tag."""
        return self.first + len(self.ids)


class Outstanding:
    """The runs that wait, in the order of their tags."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._tag_by_id: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, run: Run) -> None:
        """Wait for the confirms of *run*, whose tags follow all that were added before."""
        self._runs.append(run)
        self._count += len(run.ids)
        self._tag_by_id.update((name, tag) for tag, name in enumerate(run.ids, run.first) if name is not None)

    def are_new(self, ids: Sequence[str]) -> bool:
        """Tell whether returns by *ids* could be told from each other, and from those of what waits already."""
        return self._tag_by_id.keys().isdisjoint(ids) and len(set(ids)) == len(ids)

    def tag_of(self, message_id: str) -> int | None:
        """Return the tag of the publish that waits under *message_id*."""
        return self._tag_by_id.get(message_id)

    def holds(self, tag: object) -> TypeGuard[int]:
        """Tell whether the publish with this tag waits; *tag* comes from a header and may be anything."""
        return isinstance(tag, int) and self._run_of(tag) is not None

    def take(self, tag: int, *, multiple: bool) -> Sequence[Run]:
        """Take out what a confirm of *tag* speaks of, with all before it when *multiple*; unknown tags are none."""
        if multiple:
            return self._taken(self._up_to(tag))
        place = self._run_of(tag)
        if place is None:
            return ()
        run = self._runs[place]
        around = (run.part(run.first, tag), run.part(tag + 1, run.end))
        self._runs[place : place + 1] = [part for part in around if part.ids]
        return self._taken([run.part(tag, tag + 1)])

    def take_all(self) -> Sequence[Run]:
        """Take out everything."""
        runs, self._runs = self._runs, []
        return self._taken(runs)

    def _up_to(self, tag: int) -> list[Run]:
        count = bisect_right(self._runs, tag, key=_first)
        taken, self._runs = self._runs[:count], self._runs[count:]
        if taken and (last := taken[-1]).end > tag + 1:
            self._runs.insert(0, last.part(tag + 1, last.end))
            taken[-1] = last.part(last.first, tag + 1)
        return taken

    def _run_of(self, tag: int) -> int | None:
        place = bisect_right(self._runs, tag, key=_first) - 1
        return place if place >= 0 and tag < self._runs[place].end else None

    def _taken(self, runs: Sequence[Run]) -> Sequence[Run]:
        for run in runs:
            self._count -= len(run.ids)
            _forget(self._tag_by_id, run.ids)
        return runs


def _first(run: Run) -> int:
    return run.first


def _forget(tag_by_id: dict[str, int], ids: Iterable[str | None]) -> None:
    for name in ids:
        if name is not None:
            del tag_by_id[name]
