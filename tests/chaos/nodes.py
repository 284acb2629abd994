"""Faults of the nodes of a cluster: killed, frozen, cut off, too few, drained. Each leaves all three running."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.chaos.fault import fault
from tests.chaos.messages import VHOST
from tests.chaos.world import LONGER_THAN_TIMEOUTS, SHORTER_THAN_TIMEOUTS

if TYPE_CHECKING:
    import random

    from tests.chaos.platform import Platform
    from tests.chaos.world import World
    from tests.services.broker import LocalBroker

_INGRESS = "cim.ingress"
_DOWN_SECONDS = 3.0
_WITHOUT_QUORUM_SECONDS = 12.0


@fault("broker", of_nodes=True)
async def node_killed(world: World, _: Platform, rng: random.Random) -> None:
    """One node dies and comes back with its data."""
    await _killed(world, rng.choice(world.cluster.nodes))


@fault("broker", of_nodes=True)
async def leaders_node_killed(world: World, _: Platform, __: random.Random) -> None:
    """The node that leads the ingress queue dies and comes back."""
    await _killed(world, await asyncio.to_thread(world.cluster.leader, VHOST, _INGRESS))


@fault("broker", of_nodes=True)
async def node_frozen_short(world: World, _: Platform, rng: random.Random) -> None:
    """One node answers nothing, for less than the timeouts."""
    await _frozen(world, rng.choice(world.cluster.nodes), SHORTER_THAN_TIMEOUTS)


@fault("broker", of_nodes=True)
async def leaders_node_frozen(world: World, _: Platform, __: random.Random) -> None:
    """The node that leads the ingress queue answers nothing, for longer than the timeouts."""
    node = await asyncio.to_thread(world.cluster.leader, VHOST, _INGRESS)
    await _frozen(world, node, LONGER_THAN_TIMEOUTS)


@fault("broker", of_nodes=True)
async def node_cut_off(world: World, _: Platform, rng: random.Random) -> None:
    """Nothing gets through between one node and the other two; clients reach all three."""
    world.cluster.cut_off(rng.choice(world.cluster.nodes))
    try:
        await asyncio.sleep(LONGER_THAN_TIMEOUTS)
    finally:
        world.cluster.heal()
        await _whole(world)


@fault("broker", of_nodes=True)
async def two_nodes_stopped(world: World, _: Platform, rng: random.Random) -> None:
    """Two of three nodes die: there is no quorum until they are back."""
    for node in rng.sample(world.cluster.nodes, 2):
        await asyncio.to_thread(node.kill)
    await asyncio.sleep(_WITHOUT_QUORUM_SECONDS)
    await _whole(world)


@fault("broker", of_nodes=True)
async def leaders_moved(world: World, _: Platform, rng: random.Random) -> None:
    """The ingress queue is led by each node in turn."""
    for node in rng.sample(world.cluster.nodes, 3):
        await asyncio.to_thread(world.cluster.lead, VHOST, _INGRESS, node)


@fault("broker", of_nodes=True)
async def rolling_drain_and_restart(world: World, _: Platform, rng: random.Random) -> None:
    """Each node is drained, stopped and started, one after the other."""
    for node in rng.sample(world.cluster.nodes, 3):
        await asyncio.to_thread(world.cluster.drain, node)
        await asyncio.to_thread(node.stop)
        await _whole(world)


async def _killed(world: World, node: LocalBroker) -> None:
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(_DOWN_SECONDS)
    await _whole(world)


async def _frozen(world: World, node: LocalBroker, seconds: float) -> None:
    node.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        node.thaw()
        await _whole(world)


async def _whole(world: World) -> None:
    """Have all nodes running, seeing each other, and the ingress queue led."""
    await asyncio.to_thread(world.cluster.start)
    await asyncio.to_thread(world.cluster.leader, VHOST, _INGRESS)
