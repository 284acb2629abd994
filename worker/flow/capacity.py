"""What a queue does under an arrival curve, with workers that an autoscaler adds and takes away. No I/O.

Seconds are counted one by one. A queue is first in, first out, so its oldest message is the one that arrived when as
many had arrived as are done now.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_SYNC_SECONDS = 15
"""How often Kubernetes' autoscaler decides."""
_MANY = 1000


class Point(NamedTuple):
    """At *second* as many messages a second arrive; in between it is a straight line."""

    second: float
    rate: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """How pods are added and taken away, as the chart's ScaledObject has it."""

    pods: int = 1
    """Pods at the beginning, and never fewer."""
    max_pods: int = 8
    messages_per_pod: int = 20_000
    """One pod is wanted for each so many that wait."""
    start_seconds: int = 10
    """From the decision until a new pod takes messages."""
    down_after_seconds: int = 300
    """Fewer pods are wanted for this long before one is taken away."""
    down_every_seconds: int = 60

    def wanted(self, waiting: float) -> int:
        """Return how many pods are wanted for *waiting* messages."""
        return min(self.max_pods, max(self.pods, math.ceil(waiting / self.messages_per_pod)))


class Moment(NamedTuple):
    """How it is at the end of one second."""

    second: int
    arriving: float
    pods: int
    waiting: float
    oldest_seconds: float


@dataclass(slots=True)
class _Pods:
    """The pods there are, those that are being started, and the autoscaler's memory."""

    scaling: Scaling
    ready: int = field(init=False)
    starting: list[tuple[int, int]] = field(default_factory=list)
    wishes: list[int] = field(default_factory=list)
    taken_away_at: int = -_MANY

    def __post_init__(self) -> None:
        self.ready = self.scaling.pods

    def step(self, second: int, waiting: float) -> None:
        self.ready += sum(count for at, count in self.starting if at <= second)
        self.starting = [(at, count) for at, count in self.starting if at > second]
        if second % _SYNC_SECONDS:
            return
        self.wishes.append(self.scaling.wanted(waiting))
        there = self.ready + sum(count for _, count in self.starting)
        # As the chart has it: at most twice as many, or two more, at each decision; one at a time down.
        if self.wishes[-1] > there:
            more = min(self.wishes[-1] - there, max(there, 2))
            self.starting.append((second + self.scaling.start_seconds, more))
            return
        remembered = self.wishes[-(1 + self.scaling.down_after_seconds // _SYNC_SECONDS) :]
        is_time = second - self.taken_away_at >= self.scaling.down_every_seconds
        if max(remembered) < there and is_time and self.ready > self.scaling.pods:
            self.ready -= 1
            self.taken_away_at = second


def forecast(
    arrivals: Sequence[Point], per_pod: float, scaling: Scaling, *, seconds: int, waiting: float = 0.0
) -> list[Moment]:
    """Return each of *seconds*, for pods that take *per_pod* messages a second, with *waiting* in the queue at first.

    What waits at first counts as having arrived at second 0.
    """
    pods, moments = _Pods(scaling), []
    arrived, done = [waiting], 0.0
    for second in range(1, seconds + 1):
        rate = arriving(arrivals, second - 0.5)
        arrived.append(arrived[-1] + rate)
        pods.step(second - 1, arrived[-2] - done)
        done = min(arrived[-1], done + pods.ready * per_pod)
        waits = arrived[-1] - done
        moments.append(Moment(second, rate, pods.ready, waits, _oldest(arrived, done, second) if waits else 0.0))
    return moments


def arriving(arrivals: Sequence[Point], second: float) -> float:
    """Return the rate at *second*: on the line between two points, and level before the first and after the last."""
    after = bisect_right([point.second for point in arrivals], second)
    if after == 0 or after == len(arrivals):
        return arrivals[max(0, after - 1)].rate
    left, right = arrivals[after - 1], arrivals[after]
    share = (second - left.second) / (right.second - left.second)
    return left.rate + share * (right.rate - left.rate)


def fewest_pods(arrivals: Sequence[Point], per_pod: float, *, seconds: int, waiting: float, limit: float) -> int | None:
    """Return how many pods, always there, keep the oldest message below *limit* seconds; None for more than a thousand.

    Only the times after the backlog at the beginning, if there is one, was worked on for *limit* seconds count.
    """

    def would_do(count: int) -> bool:
        fixed = Scaling(pods=count, max_pods=count)
        moments = forecast(arrivals, per_pod, fixed, seconds=seconds, waiting=waiting)
        return all(moment.oldest_seconds <= limit for moment in moments if moment.second >= limit)

    counts = range(1, _MANY + 1)
    place = bisect_left(counts, True, key=would_do)  # noqa: FBT003 - what it looks for: one more never does worse
    return counts[place] if place < len(counts) else None


def _oldest(arrived: Sequence[float], done: float, second: int) -> float:
    """Return the age of the first message that is not done, on the line between two seconds."""
    after = bisect_right(arrived, done)
    left, right = arrived[after - 1], arrived[after]
    return second - (after - 1 + (done - left) / (right - left)) if after else float(second)
