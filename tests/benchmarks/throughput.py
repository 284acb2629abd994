"""One run: fill the queue, let one contender empty it, watch, and check that nothing is missing or double."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import psutil

from tests.benchmarks.contenders import Shovel
from tests.benchmarks.messages import SIZE_BYTES, Kind, Prepared, mixed, prepare
from tests.benchmarks.stage import Loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.contenders import Contender, Running
    from tests.benchmarks.stage import Stage

WORKLOADS: Final[dict[str, Sequence[Kind]]] = {
    "live": [Kind.LIVE],
    "stored": [Kind.STORED],
    "mixed": mixed(69, 30, 1),
    "invalid": [Kind.INVALID],
}
_POLL_SECONDS: Final = 0.01
_WARM_SHARE: Final = 0.1
"""Share of the messages that is over before the clock starts: connecting, growing the window, warming up."""
_STUCK_SECONDS: Final = 30.0
_LAST_ACKS_SECONDS: Final = 0.5
"""Time for the acknowledgements that follow the last effect; then the contender is told to stop."""
BARE_INSERT_MANY: Final = "bare insert_many (limit)"
_numbers = count()


class CountsDifferError(Exception):
    """Messages are missing or double after a run: its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one run measured."""

    contender: str
    workload: str
    messages: int
    rate: float
    """Messages per second, proven, from the first tenth to the last message."""
    cpu_us: float
    """Processor microseconds per message of the contender's processes."""
    broker_cpu_us: float
    memory_mb: float
    memory_growth: float
    """Resident memory at the end divided by that after the warm-up."""

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run is, and what it has cost so far."""

    at: float
    done: int
    cpu: float
    broker_cpu: float
    memory_mb: float


def run(stage: Stage, contender: Contender, workload: str, messages: int, warm: float = _WARM_SHARE) -> Result:
    """Run once and return the result; the clock starts when the share *warm* of the messages is over.

    Raises `CountsDifferError`, or RuntimeError when the contender gives up.
    """
    stage.reset()
    loaded = stage.fill(numbered(stage, messages, WORKLOADS[workload]))
    with contender.running(stage) as running:
        start, end = watch(running, stage, messages, progress(stage, workload), warm)
        time.sleep(_LAST_ACKS_SECONDS)
    check(stage, loaded, contender, workload)
    return between(start, end, contender.name, workload)


def between(start: Moment, end: Moment, contender: str, workload: str) -> Result:
    """Return what happened between two moments."""
    done = end.done - start.done
    return Result(
        contender,
        workload,
        end.done,
        done / (end.at - start.at),
        (end.cpu - start.cpu) / done * 1e6,
        (end.broker_cpu - start.broker_cpu) / done * 1e6,
        end.memory_mb,
        end.memory_mb / start.memory_mb if start.memory_mb else 1.0,
    )


def numbered(stage: Stage, messages: int, order: Sequence[Kind], size: int = SIZE_BYTES) -> Iterator[Prepared]:
    """Yield messages with numbers that no earlier run has used."""
    first = next(_numbers) * 10_000_000
    return prepare(first, messages, order, live=stage.live, closed=stage.closed, size=size)


def progress(stage: Stage, workload: str) -> Callable[[], int]:
    """Return what counts the proven messages of a workload at the least cost."""
    if workload == "live":
        return stage.arrived
    return stage.stored if workload == "stored" else lambda: stage.effects().total


def watch(
    running: Running, stage: Stage, messages: int, done: Callable[[], int], warm: float = _WARM_SHARE
) -> tuple[Moment, Moment]:
    """Poll until all *messages* are proven; return the moment after the warm-up and the last."""
    start = wait_until(running, stage, max(1, int(messages * warm)), done)
    return start, wait_until(running, stage, messages, done)


def wait_until(running: Running, stage: Stage, messages: int, done: Callable[[], int]) -> Moment:
    """Poll until at least *messages* are proven. Raises RuntimeError when nothing moves any more."""
    last, last_change = -1, time.monotonic()
    while (now := done()) < messages:
        if now != last:
            last, last_change = now, time.monotonic()
        complaint = running.complaint()
        if complaint or time.monotonic() - last_change > _STUCK_SECONDS:
            raise RuntimeError(f"stuck at {now} of {messages}: {complaint or 'no progress'}")
        time.sleep(_POLL_SECONDS)
    times = psutil.Process(stage.broker.pid).cpu_times()
    return Moment(time.perf_counter(), now, running.cpu_seconds(), times.user + times.system, running.memory_mb())


def check(stage: Stage, loaded: Loaded, contender: Contender, workload: str, *, by_id: bool = True) -> None:
    """Raise `CountsDifferError` unless everything came out exactly as expected; events compared one by one if *by_id*.

    Only our worker has to leave an empty queue behind: the others are killed in the middle of their last
    acknowledgements, which costs a redelivery and no message.
    """
    is_ours = contender.name.startswith("cim-worker")
    problems = stage.problems(loaded, by_id=by_id and not isinstance(contender, Shovel), drained=is_ours)
    if problems:
        raise CountsDifferError(f"{contender.name}, {workload}: {'; '.join(problems)}")


def run_bare_insert_many(stage: Stage, messages: int) -> Result:
    """Run the store's limit line: it needs no broker, and writes what the other contenders write."""
    stage.reset()
    first = next(_numbers) * 10_000_000
    loaded = Loaded()
    for message in prepare(first, messages, [Kind.STORED], live=stage.live, closed=stage.closed):
        loaded.expected[Kind.STORED].add(message.event_id)
    arguments = map(str, (first, messages, len(stage.closed)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.rivals.bare_insert_many", *arguments],
        env={**os.environ, **stage.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    problems = stage.problems(loaded)
    if problems:
        raise CountsDifferError(f"{BARE_INSERT_MANY}: {'; '.join(problems)}")
    return Result(BARE_INSERT_MANY, "stored", messages, messages / float(done.stdout), 0.0, 0.0, 0.0, 1.0)
