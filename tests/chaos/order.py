"""The order of each key: what is broken while it is promised, and the verdict.

Everything that may arrive at a subscriber has a place in the order of its conversation (`Sample.key`), by which it is
published. What counts is how the first copy of each arrived: what was in doubt comes twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.chaos.fault import fault
from tests.chaos.faults import full
from tests.chaos.platform import NARROW_QUEUE
from tests.support import wire_proxy as wire

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.ledger import Findings, Ledger
    from tests.chaos.messages import Sample
    from tests.chaos.platform import Platform
    from tests.chaos.pool import GivenUp
    from tests.chaos.world import World

IN_ORDER: Final = (
    "worker_kill_9",
    "worker_sigterm",
    "all_workers_kill_9",
    "supervisor_kill_9",
    "rolling_restart",
    "broker_frozen_short",
    "broker_frozen_long",
    "memory_alarm",
    "connections_closed_by_broker",
    "broker_connections_cut",
    "broker_slow",
    "store_stop",
    "store_kill_9",
    "store_connections_cut",
    "store_slow",
    "subscriber_queue_full",
    "last_subscriber_gone",
    "closed_and_reopened",
)
"""Faults during which order is promised, beside those of this file."""
_RING_KEPT: Final = ("broker_restart", "broker_kill_9")
"""The same from RabbitMQ 4.3 on: a node of earlier versions that starts again makes another ring, and keys move."""
_KEEPS_RING: Final = (4, 3)
BROKEN: Final = "the order of a key broken"
_BURST = 60
_TOO_MANY = 150
_WAIT_SECONDS = 40.0
"""Other faults hold up what has to be put aside, or the publisher."""
_SLACK = 1.0
"""Seconds: times in the log and in the ledger are not taken at the same moment."""


def faults_in_order(broker_version: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of faults during which order is promised on a broker of *broker_version*."""
    return (*IN_ORDER, *(_RING_KEPT if broker_version >= _KEEPS_RING else ()))


@fault("store", "store-net", of_order=True)
async def waits_in_order(world: World, _: Platform, rng: random.Random) -> None:
    """Messages that have to be looked up come while the store is away; nothing new of their keys comes later."""
    left = [place for place in world.places.quiet if f"session-{place}" not in world.ledger.keys]
    if not left:
        return
    place = rng.choice(left)
    gone = [
        world.sick.on(*commands, answer=wire.error(11600, "InterruptedAtShutdown"))
        for commands in (("find", "aggregate"), ("insert", "update", "findAndModify"))
    ]
    try:
        await asyncio.sleep(0.5)
        samples = []
        for _number in range(_BURST):
            samples.append(world.traffic.by_session(place))
            await world.publisher.publish(samples[-1])
        last = world.traffic.behind(samples[-1])
        await world.publisher.publish(last)
        if not await _arrived(world, last):
            world.ledger.lost_their_place(samples)  # the store comes back before all of them wait for it
    finally:
        for rule in gone:
            rule.end()


async def _arrived(world: World, sample: Sample) -> bool:
    """Wait for a live message behind those that wait for the store: it begins when the last of them is put aside."""
    deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
    while not world.ledger.live[sample.number]:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


@fault("queues", of_order=True)
async def subscriber_queue_full_in_a_burst(world: World, _: Platform, __: random.Random) -> None:
    """A subscriber's queue takes nothing, while more than a hundred messages of its key come: its order is given up."""
    filling = asyncio.create_task(full(world, NARROW_QUEUE, 0, 2.5))
    await asyncio.sleep(0.5)
    for _number in range(_TOO_MANY):
        await world.publisher.publish(world.traffic.narrow())
    await filling


@dataclass
class Overtaken:
    """What is known of messages that arrived after later ones of their key."""

    promised: list[str] = field(default_factory=list)
    """Those whose order was promised, each as a sentence."""
    given_up: int = 0
    """Those whose order had been given up, which the log says."""


def overtaken(ledger: Ledger, given_up: Sequence[GivenUp]) -> Overtaken:
    """Return what arrived after a later one of its key.

    A line of the log that gives up a key's order allows it for what was entered before, and arrived after it.
    """
    found, earliest = Overtaken(), dict[str, int]()
    lines: dict[str, list[GivenUp]] = defaultdict(list)
    for line in given_up:
        lines[line.key].append(line)
    for number in reversed(range(len(ledger))):
        key = ledger.keys[number]
        if key is None or not ledger.arrivals[number]:
            continue
        before = earliest.get(key, number)
        if ledger.arrivals[number] <= ledger.arrivals[before]:
            earliest[key] = number
        elif any(
            ledger.entered_at[number] - _SLACK < line.until and line.at < ledger.arrived_at[number] + _SLACK
            for line in lines[key]
        ):
            found.given_up += 1
        else:
            seconds = ledger.arrived_at[number] - ledger.arrived_at[before]
            found.promised.append(f"{number} of {key} arrived {seconds:.3f} s after {before}")
    return found


def judge_order(found: Overtaken, findings: Findings) -> None:
    """Add a violation for each message that was overtaken though its order was promised."""
    for example in found.promised:
        findings.add(BROKEN, example)
