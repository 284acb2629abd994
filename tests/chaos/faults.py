"""Dead, frozen, slow and full: faults on real processes and connections. Each leaves the world whole again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.chaos.fault import fault
from tests.chaos.messages import VHOST
from tests.chaos.platform import NARROW_QUEUE, Platform
from tests.chaos.world import DRAIN_SECONDS, LONGER_THAN_TIMEOUTS, SHORTER_THAN_TIMEOUTS

if TYPE_CHECKING:
    import random
    from typing import Any

    from tests.chaos.world import World

_SLOW_SECONDS = 0.12
_SLOW_FOR = 4.0
_SHORT_OUTAGE = 2.5
_POISON_SECONDS = 120.0


# -- processes ----------------------------------------------------------------------------------------------------


@fault("pool")
async def worker_kill_9(world: World, _: Platform, rng: random.Random) -> None:
    """One worker process dies at once; the supervisor starts another."""
    await signal_child(world, rng, signal.SIGKILL)


@fault("pool")
async def worker_sigterm(world: World, _: Platform, rng: random.Random) -> None:
    """One worker process drains and ends; the supervisor starts another."""
    await signal_child(world, rng, signal.SIGTERM)


@fault("pool")
async def all_workers_kill_9(world: World, _: Platform, __: random.Random) -> None:
    """All worker processes die at the same moment."""
    for pid in await children(world):
        _send(pid, signal.SIGKILL)
    await wait_for_children(world)


@fault("pool")
async def supervisor_kill_9(world: World, _: Platform, __: random.Random) -> None:
    """The supervisor dies; a new one is started at once, while the orphans drain by themselves."""
    orphans = await children(world)
    world.pool.supervisor.kill()
    world.pool.supervisor.wait()
    world.pool.start()
    await gone(world, orphans, "orphans of a killed supervisor")
    await wait_for_children(world)


@fault("pool")
async def rolling_restart(world: World, _: Platform, __: random.Random) -> None:
    """A new pool starts, then the old one is told to stop and drains."""
    old, workers = world.pool.supervisor, await children(world)
    world.pool.start()
    old.send_signal(signal.SIGTERM)
    await gone(world, [*workers, old.pid], "processes of a pool that was told to stop")
    old.wait()
    await wait_for_children(world)


@fault("pool", every=3)
async def killing_message(world: World, _: Platform, __: random.Random) -> None:
    """A message that kills every process that takes it, until the broker gives it up."""
    deaths = world.traffic.killer()
    await world.publisher.publish(deaths)
    deadline = asyncio.get_running_loop().time() + _POISON_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(1)
        with contextlib.suppress(Exception):
            if await asyncio.to_thread(world.has_letter, deaths.code, deaths.body):
                break
    await wait_for_children(world)


# -- the broker ---------------------------------------------------------------------------------------------------


@fault("broker")
async def broker_restart(world: World, _: Platform, __: random.Random) -> None:
    """The broker is stopped in good order and started again."""
    await asyncio.to_thread(world.node.restart)


@fault("broker")
async def broker_kill_9(world: World, _: Platform, __: random.Random) -> None:
    """The broker dies and comes back with its data."""
    await asyncio.to_thread(world.node.kill)
    await asyncio.to_thread(world.node.start)


@fault("broker")
async def broker_frozen_short(world: World, _: Platform, __: random.Random) -> None:
    """The broker answers nothing, for less than the timeouts."""
    await _frozen(world.node, SHORTER_THAN_TIMEOUTS)


@fault("broker")
async def broker_frozen_long(world: World, _: Platform, __: random.Random) -> None:
    """The broker answers nothing, for longer than the timeouts."""
    await _frozen(world.node, LONGER_THAN_TIMEOUTS)


@fault("broker")
async def memory_alarm(world: World, _: Platform, __: random.Random) -> None:
    """The broker blocks publishers for longer than the confirm timeout."""
    await world.manage(lambda: world.node.set_memory_alarm(True))
    try:
        await asyncio.sleep(LONGER_THAN_TIMEOUTS / 2)  # the confirm timeout is 3 s
    finally:
        await world.manage(lambda: world.node.set_memory_alarm(False))


@fault("broker")
async def connections_closed_by_broker(world: World, _: Platform, __: random.Random) -> None:
    """The broker closes every client connection."""
    await world.manage(world.node.close_connections)


# -- the store ----------------------------------------------------------------------------------------------------


@fault("store", elsewhere=True)
async def store_stop(world: World, _: Platform, __: random.Random) -> None:
    """The store is stopped in good order and started again."""
    await asyncio.to_thread(world.store.stop)
    await asyncio.sleep(_SHORT_OUTAGE)
    await asyncio.to_thread(world.store.start)


@fault("store", elsewhere=True)
async def store_kill_9(world: World, _: Platform, __: random.Random) -> None:
    """The store dies and comes back with its data."""
    await asyncio.to_thread(world.store.kill)
    await asyncio.sleep(_SHORT_OUTAGE)
    await asyncio.to_thread(world.store.start)


@fault("store", elsewhere=True)
async def store_frozen_short(world: World, _: Platform, __: random.Random) -> None:
    """The store answers nothing, for less than the timeouts."""
    await _frozen(world.store, SHORTER_THAN_TIMEOUTS)


@fault("store", elsewhere=True)
async def store_frozen_long(world: World, _: Platform, __: random.Random) -> None:
    """The store answers nothing, for longer than the timeouts."""
    await _frozen(world.store, LONGER_THAN_TIMEOUTS)


# -- the network --------------------------------------------------------------------------------------------------


@fault("broker-net")
async def broker_connections_cut(world: World, _: Platform, __: random.Random) -> None:
    """Every connection to the broker is reset, and new ones for a moment."""
    await _cut(world.broker_net)


@fault("broker-net")
async def broker_black_hole(world: World, _: Platform, __: random.Random) -> None:
    """Nothing gets through to or from the broker, and nobody says so."""
    await _black_hole(world.broker_net)


@fault("broker-net")
async def broker_slow(world: World, _: Platform, __: random.Random) -> None:
    """Everything to and from the broker takes its time."""
    await _slow(world.broker_net)


@fault("store-net", elsewhere=True)
async def store_connections_cut(world: World, _: Platform, __: random.Random) -> None:
    """Every connection to the store is reset, and new ones for a moment."""
    await _cut(world.store_net)


@fault("store-net", elsewhere=True)
async def store_black_hole(world: World, _: Platform, __: random.Random) -> None:
    """Nothing gets through to or from the store, and nobody says so."""
    await _black_hole(world.store_net)


@fault("store-net", elsewhere=True)
async def store_slow(world: World, _: Platform, __: random.Random) -> None:
    """Everything to and from the store takes its time."""
    await _slow(world.store_net)


# -- conversations ------------------------------------------------------------------------------------------------


@fault("conversations")
async def exchange_deleted(world: World, platform: Platform, rng: random.Random) -> None:
    """A conversation's exchange is deleted in mid-flight; later the platform speaks of the conversation again."""
    conversation = rng.choice(world.places.moving)
    await platform.delete_exchange(conversation)
    await asyncio.sleep(rng.uniform(0.2, 2))
    await platform.tell("ACTIVE", conversation)
    await platform.bind(conversation)


@fault("conversations")
async def last_subscriber_gone(world: World, platform: Platform, rng: random.Random) -> None:
    """A conversation's last subscriber goes, its queue disappears; later another comes."""
    conversation = rng.choice(world.places.moving)
    await platform.unbind(conversation)
    await asyncio.sleep(rng.uniform(0.5, 2))
    await platform.delete_queue(conversation)
    await asyncio.sleep(rng.uniform(0.2, 1))
    await platform.bind(conversation)


@fault("conversations")
async def closed_and_reopened(world: World, platform: Platform, rng: random.Random) -> None:
    """A conversation closes, within or beyond the grace of its exchange, and opens again."""
    conversation = rng.choice(world.places.moving)
    await platform.tell("CLOSED", conversation)
    await asyncio.sleep(rng.choice((0.3, 1.0, 3.5)))
    await platform.tell("ACTIVE", conversation)
    await platform.bind(conversation)


# -- full queues --------------------------------------------------------------------------------------------------


@fault("queues")
async def subscriber_queue_full(world: World, _: Platform, __: random.Random) -> None:
    """A subscriber's queue takes nothing for a while: what is for it is retried."""
    await full(world, NARROW_QUEUE, 0, 3.0)


@fault("queues")
async def retry_queues_full(world: World, _: Platform, __: random.Random) -> None:
    """The retry tiers take nothing for a while, while there is something to retry."""
    await asyncio.gather(full(world, r"cim\.ingress\.retry\..*", 0, 4.0), full(world, NARROW_QUEUE, 0, 3.0))


@fault("queues")
async def dead_letter_queue_full(world: World, _: Platform, __: random.Random) -> None:
    """The dead-letter queue takes nothing for a while."""
    await full(world, r"cim\.dead-letters", 0, 4.0)


# -- how ----------------------------------------------------------------------------------------------------------


async def _frozen(server: Any, seconds: float) -> None:
    server.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        server.thaw()


async def _cut(proxy: Any) -> None:
    proxy.refuse(on=True)
    proxy.cut()
    await asyncio.sleep(0.5)
    proxy.refuse(on=False)


async def _black_hole(proxy: Any) -> None:
    proxy.black_hole(on=True)
    try:
        await asyncio.sleep(LONGER_THAN_TIMEOUTS)
    finally:
        proxy.black_hole(on=False)


async def _slow(proxy: Any) -> None:
    proxy.slow(_SLOW_SECONDS)
    try:
        await asyncio.sleep(_SLOW_FOR)
    finally:
        proxy.slow(0)


async def full(world: World, queue: str, length: int, seconds: float) -> None:
    name = f"full {queue}"
    definition = {"max-length": length, "overflow": "reject-publish"}
    await world.manage(lambda: world.broker.set_policy(VHOST, name, f"^{queue}$", definition))
    try:
        await asyncio.sleep(seconds)
    finally:
        await world.manage(lambda: _delete_policy(world, name))


def _delete_policy(world: World, name: str) -> None:
    path = f"/policies/{VHOST}/{quote(name, safe='')}"
    world.broker.management.request("DELETE", path, missing_is_fine=True)


async def signal_child(world: World, rng: random.Random, number: signal.Signals) -> None:
    pids = await children(world)
    if pids:
        _send(rng.choice(pids), number)
    await asyncio.sleep(1)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def children(world: World) -> list[int]:
    return await asyncio.to_thread(world.pool.children)


async def wait_for_children(world: World) -> None:
    """Wait until the pool has workers again, so that the next fault finds somebody."""
    for _ in range(100):
        if len(await children(world)) > 1:
            return
        await asyncio.sleep(0.2)
    world.ledger.findings.add("the pool does not come back", "fewer than two workers after 20 s")


async def gone(world: World, pids: list[int], who: str) -> None:
    left = await asyncio.to_thread(world.pool.wait_for_end, pids, DRAIN_SECONDS + 12)
    if left:
        world.ledger.findings.add("processes left behind", f"{who}: {len(left)} after {DRAIN_SECONDS + 12:g} s")
