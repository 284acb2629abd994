"""How the pool is doing: lag, outcomes of the last minutes, waiting room, retry tiers, letters, dependencies.

Everything is asked at the same time, and what cannot be asked is said; nothing is taken from a queue.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from worker import contract
from worker.desk.journal import Coverage, read_journal
from worker.desk.pools import Pool, read_pool
from worker.desk.recent import RecentOutcomes, Summary
from worker.desk.times import duration, utc
from worker.desk.wording import why_not
from worker.failure import AdapterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from worker.desk.journal import JournalStream

_LONGEST_READING_SECONDS: Final = 10.0
_DEPENDENCIES: Final = ("broker", "management API", "journal", "store")


Number = TypeVar("Number", int, float)


class Depth(NamedTuple):
    """What is in a queue; None where the question went to somebody who cannot see it."""

    ready: int
    unacknowledged: int | None = None
    consumers: int | None = None
    arriving: float | None = None
    """Messages that arrive a second."""
    head_at: float | None = None
    """When the oldest message was published (epoch seconds), where its publisher and the broker say so."""

    @property
    def all(self) -> int:
        """Everything that is known to be in it."""
        return self.ready + (self.unacknowledged or 0)


class LetterSummary(NamedTuple):
    """The dead letters that wait for somebody's decision. Times are epoch milliseconds."""

    open: int
    causes: int
    oldest: int | None
    new: int
    """Those that died, once more or for the first time, since the time asked for."""


class QueueDepths(Protocol):
    """Looks at queues. Raises `AdapterError`."""

    async def depths(self, names: Sequence[str]) -> Mapping[str, Depth | None]:
        """Return what is in each queue; None for one that does not exist; those that may not be seen are missing."""

    async def partitions(self) -> int:
        """Return how many partitions the ingress has; 0: it is not partitioned."""


class BrokerView(Protocol):
    """What one connection to the broker shows."""

    @property
    def version(self) -> str:
        """The broker's version, in its own words."""

    @property
    def queues(self) -> QueueDepths:
        """Its queues."""

    @property
    def journal(self) -> JournalStream:
        """The journal."""


class StoreView(Protocol):
    """What the store shows. Raises `AdapterError`."""

    async def letters(self, since: int) -> LetterSummary:
        """Return what is known of open letters, *since* (epoch ms) being what counts as new."""

    async def pools(self) -> Sequence[Mapping[str, Any]]:
        """Return the last report of each pool."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look."""

    broker: Callable[[], AbstractAsyncContextManager[BrokerView]]
    management: QueueDepths | None
    store: StoreView
    retry_delays: Sequence[str]


class Dependency(NamedTuple):
    """Whether something can be used now."""

    name: str
    is_up: bool
    detail: str


@dataclass(slots=True)
class Report:
    """What was seen at one moment; None is what could not be seen. Times are epoch milliseconds."""

    at: int
    window_ms: int
    retry_delays: Sequence[str] = ()
    queues: Mapping[str, Depth | None] | None = None
    sees_unacknowledged: bool = False
    partitions: int = 0
    """Queues that share the ingress, beside the undivided one; 0: it is not partitioned."""
    outcomes: Summary | None = None
    journal: Coverage | None = None
    letters: LetterSummary | None = None
    pools: Sequence[Pool] = ()
    dependencies: dict[str, Dependency] = field(default_factory=dict)

    def depth(self, queue: str) -> Depth | None:
        """Return what is in a queue, None when that is not known."""
        return None if self.queues is None else self.queues.get(queue)

    @property
    def ingress(self) -> Depth | None:
        """What is in the ingress, all partitions together; None when that is not known of each."""
        found = [self.depth(name) for name in contract.ingress_queues(self.partitions)]
        depths = [depth for depth in found if depth is not None]
        if len(depths) < len(found):
            return None
        heads = [depth.head_at for depth in depths if depth.head_at is not None]
        return Depth(
            sum(depth.ready for depth in depths),
            _sum(depth.unacknowledged for depth in depths),
            _sum(depth.consumers for depth in depths),
            _sum(depth.arriving for depth in depths),
            min(heads, default=None),
        )

    @property
    def missing(self) -> list[str]:
        """Queues of the contract that do not exist."""
        return [name for name, depth in (self.queues or {}).items() if depth is None]

    @property
    def oldest_ms(self) -> int | None:
        """About how long the oldest message of the ingress waits; None when nobody can tell.

        No broker tells the age of a quorum queue's head. What is in a system, divided by what arrives a second, is how
        long each stays in it; without the management API, what is done a second stands for what arrives.
        """
        depth = self.ingress
        if depth is None:
            return None
        if not depth.all:
            return 0
        rate = depth.arriving or (self.outcomes.per_second if self.outcomes else 0)
        return int(depth.all / rate * 1000) if rate else None

    def attention(self) -> list[str]:
        """Return what somebody should look after, in sentences that name the next step."""
        found = [f"{one.name}: {one.detail}" for one in self.dependencies.values() if not one.is_up]
        if self.missing:
            found.append(f"missing on the broker: {', '.join(self.missing)}; run `cim-worker topology apply`")
        for name in contract.ingress_queues(self.partitions):
            ingress = self.depth(name)
            if ingress is not None and ingress.ready and ingress.consumers == 0:
                found.append(f"{ingress.ready} messages wait in {name}, and no worker consumes it")
        waiting = self.depth(contract.WAITING)
        if waiting is not None and waiting.all:
            found.append(f"{waiting.all} messages are in the waiting room: the store is, or was, away or behind")
        parked = self.depth(contract.PARKED)
        if parked is not None and parked.all:
            found.append(f"{parked.all} letters are parked in {contract.PARKED}: no document can hold them")
        gaps = self.journal.gaps if self.journal else ()
        found += [f"{gap.missing} outcomes may be missing in the journal, until {utc(gap.last)}" for gap in gaps]
        return found + [line for pool in self.pools for line in pool.attention()]

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; times are epoch milliseconds, unknown values null."""
        ingress, oldest = self.ingress, self.oldest_ms
        return {
            "at": self.at,
            "lag": None if ingress is None else ingress.all,
            "lagHasUnacknowledged": self.sees_unacknowledged,
            "partitions": self.partitions,
            "oldestSeconds": None if oldest is None else oldest / 1000,
            "queues": None
            if self.queues is None
            else {name: None if depth is None else depth._asdict() for name, depth in self.queues.items()},
            "outcomes": None if self.outcomes is None else self.outcomes.as_json(),
            "journal": None if self.journal is None else self.journal.as_json(),
            "letters": None if self.letters is None else self.letters._asdict(),
            "pools": [pool._asdict() for pool in self.pools],
            "dependencies": [one._asdict() for one in self.dependencies.values()],
            "attention": self.attention(),
        }


class Observer:
    """Looks again and again; of the journal it reads only what is new."""

    def __init__(self, sources: Sources, window_ms: int) -> None:
        """Look into *sources*; outcomes and new letters are those of the last *window_ms*."""
        self._sources = sources
        self._window_ms = window_ms
        self._recent = RecentOutcomes(window_ms)
        self._next_offset: int | None = None
        self._partitions: int | None = None

    async def look(self, now: int) -> Report:
        """Return how things are at *now* (epoch ms). Raises nothing for what cannot be asked."""
        report = Report(now, self._window_ms, self._sources.retry_delays)
        await asyncio.gather(self._ask_broker(report), self._ask_management(report), self._ask_store(report))
        asked = report.dependencies
        report.dependencies = {name: asked[name] for name in _DEPENDENCIES if name in asked}
        return report

    async def _ask_broker(self, report: Report) -> None:
        async def ask() -> str:
            async with self._sources.broker() as view:
                depths = await view.queues.depths(await self._names(view.queues, report))
                if not report.sees_unacknowledged:
                    report.queues = depths
                await self._read_journal(view.journal, report)
            return f"RabbitMQ {view.version}"

        await _try("broker", report, ask)

    async def _ask_management(self, report: Report) -> None:
        management = self._sources.management
        if management is None:
            return

        async def ask() -> str:
            report.queues = await management.depths(await self._names(management, report))
            report.sees_unacknowledged = True
            return "answers"

        await _try("management API", report, ask)

    async def _ask_store(self, report: Report) -> None:
        async def ask() -> str:
            report.letters = await self._sources.store.letters(report.at - self._window_ms)
            documents = await self._sources.store.pools()
            pools = sorted(read_pool(one, report.at) for one in documents)
            report.pools = [pool for pool in pools if pool.is_pool or pool.is_paused]
            return "answers"

        await _try("store", report, ask)

    async def _read_journal(self, stream: JournalStream, report: Report) -> None:
        until = time.monotonic() + _LONGEST_READING_SECONDS

        async def ask() -> str:
            coverage = await read_journal(
                stream,
                since=report.at - self._window_ms,
                take=self._recent.add,
                from_offset=self._next_offset,
                on_progress=lambda _done, _total: time.monotonic() < until,
            )
            self._next_offset = coverage.next_offset
            report.journal, report.outcomes = coverage, self._recent.summary(report.at)
            if not coverage.is_complete:
                return f"too much to read in {_LONGEST_READING_SECONDS:g} s: counted up to {utc(coverage.read_to or 0)}"
            back = coverage.reaches_back_to
            return "empty" if back is None else f"reaches back {duration(report.at - back)}"

        await _try("journal", report, ask)

    async def _names(self, queues: QueueDepths, report: Report) -> list[str]:
        """Return the queues to look at. Partitions are looked for once: the broker logs what does not exist."""
        if self._partitions is None:
            self._partitions = await queues.partitions()
        report.partitions = self._partitions
        tiers = [contract.retry_queue(delay) for delay in self._sources.retry_delays]
        others = (contract.CONVERSATION_EVENTS, contract.DEAD_LETTERS, contract.PARKED)
        return [*contract.ingress_queues(self._partitions), contract.WAITING, *tiers, *others]


def _sum(values: Iterable[Number | None]) -> Number | None:
    """Return the sum of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known[1:], start=known[0]) if known else None


async def _try(name: str, report: Report, ask: Callable[[], Awaitable[str]]) -> None:
    begin = time.monotonic()
    try:
        detail = await ask()
    except AdapterError as error:
        report.dependencies[name] = Dependency(name, is_up=False, detail=why_not(error))
    else:
        took = duration(int((time.monotonic() - begin) * 1000))
        report.dependencies[name] = Dependency(name, is_up=True, detail=f"{detail} ({took})")
