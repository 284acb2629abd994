"""Live latency while anything else fails: a trickle of live messages is timed, undisturbed and during each fault."""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.platform import CALM_QUEUE
from tests.chaos.pool import MARK, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.chaos.fault import Fault
    from tests.chaos.ledger import Findings
    from tests.chaos.platform import Platform
    from tests.chaos.world import World

_PER_SECOND = 100
_WINDOW_SECONDS = 1.0
_WARM_UP_SECONDS = 2.0
_UNDISTURBED_SECONDS = 2.0
_AFTERWARDS_SECONDS = 2.0
"""What waited comes back now; live messages must not feel that either."""
_ALWAYS_FINE_SECONDS = 0.1
"""What broker, store, pool and harness on two shared cores do to each other; see README.md."""
_AT_MOST = 2
_BACKGROUND_SECONDS = 0.015
UNDISTURBED = "undisturbed"


@dataclass
class Latency:
    """What live messages felt, by fault: seconds in windows of one second each."""

    windows: dict[str, list[list[float]]] = field(default_factory=dict)
    lost: int = 0

    def p99(self, name: str) -> float:
        """Return the median over the windows of their 99th percentiles, in seconds."""
        return statistics.median(_p99(window) for window in self.windows[name])

    def worst(self, name: str) -> float:
        """Return the longest that one message took, in seconds."""
        return max(max(window) for window in self.windows[name])

    def bound(self) -> float:
        """Return the longest 99th percentile that counts as not felt, in seconds."""
        return max(_AT_MOST * self.p99(UNDISTURBED), _ALWAYS_FINE_SECONDS)

    def judge(self, findings: Findings) -> None:
        """Add a violation for every fault that live messages felt, and for every live message that never came."""
        bound = self.bound() if self.windows else 0.0
        for name in self.windows:
            if self.p99(name) > bound:
                example = f"{name}: p99 {self.p99(name) * 1000:.0f} ms, at most {bound * 1000:.0f} ms"
                findings.add("live messages feel what fails elsewhere", example)
        if self.lost:
            findings.add("a valid message lost", f"{self.lost} of the trickle")


async def feel(world: World, platform: Platform, faults: Sequence[Fault]) -> Latency:
    """Inject *faults* one after the other, undisturbed moments between them, and time live messages all along."""
    file = world.folder / "trickle"
    process = _start_trickle(world, file)
    background = asyncio.create_task(_background(world))
    spans: list[tuple[str, float, float]] = []
    try:
        await asyncio.sleep(_WARM_UP_SECONDS)
        for fault in faults:
            spans.append(await _timed(UNDISTURBED, asyncio.sleep(_UNDISTURBED_SECONDS)))
            world.say(f"{fault.name}, timed …")
            spans.append(await _timed(fault.name, _inject(world, platform, fault)))
    finally:
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)
        process.terminate()
        await asyncio.to_thread(process.wait)
    return _read(file, spans)


async def _inject(world: World, platform: Platform, fault: Fault) -> None:
    await fault.inject(world, platform, world.rng)
    await asyncio.sleep(_AFTERWARDS_SECONDS)


async def _timed(name: str, work: object) -> tuple[str, float, float]:
    started = time.monotonic()
    await work  # type: ignore[misc]
    return name, started, time.monotonic()


async def _background(world: World) -> None:
    """Publish the usual mixture meanwhile."""
    while True:
        await world.publisher.publish(world.traffic.next())
        await asyncio.sleep(_BACKGROUND_SECONDS)


def _start_trickle(world: World, file: Path) -> subprocess.Popen[bytes]:
    url, place = world.publisher_url.partition(",")[0], world.places.calm[0]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.trickle", url, place, CALM_QUEUE, str(_PER_SECOND), str(file)],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != MARK},
        stdin=subprocess.DEVNULL,
    )


def _read(file: Path, spans: Sequence[tuple[str, float, float]]) -> Latency:
    latency = Latency()
    windows: dict[tuple[str, int], list[float]] = {}
    for line in file.read_text().splitlines():
        sent, seconds = json.loads(line)
        if seconds is None:
            latency.lost += 1
            continue
        for number, (name, started, ended) in enumerate(spans):
            if started <= sent < ended:
                key = (name, number * 1000 + int((sent - started) / _WINDOW_SECONDS))
                windows.setdefault(key, []).append(seconds)
    for (name, _), window in windows.items():
        if len(window) >= _PER_SECOND * _WINDOW_SECONDS / 2:
            latency.windows.setdefault(name, []).append(window)
    return latency


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1]
