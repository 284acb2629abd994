"""Which nodes lead our queues: a leader does a queue's work, so one node that leads all of them does all of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from worker.rabbit.topology import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.rabbit.management import Management

_OURS: Final = "cim."
_STREAM: Final = "stream"
_MOVED_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.5
FIX: Final = "run `cim-worker topology apply --rebalance`, or `rabbitmq-queues rebalance quorum`"


def spread(nodes: Iterable[Mapping[str, Any]], queues: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many of our quorum queues each running node leads, as the management API says."""
    count = Counter(
        queue["leader"]
        for queue in queues
        if queue["name"].startswith(_OURS) and queue.get("type") != _STREAM and queue.get("leader")
    )
    running = {str(node["name"]) for node in nodes if node.get("running", True)}
    return {name: count[name] for name in sorted(running | count.keys())}


def is_even(by_node: Mapping[str, int]) -> bool:
    """Tell whether no node leads more than one queue above its share."""
    return max(by_node.values(), default=0) <= -(-sum(by_node.values()) // max(1, len(by_node))) + 1


def in_words(by_node: Mapping[str, int]) -> str:
    """Return how many each leads."""
    return ", ".join(f"{name} leads {count}" for name, count in by_node.items())


def row(by_node: Mapping[str, int]) -> Finding:
    """Return the row of `topology check`: leaders that stand unevenly lose nothing, so it is no problem in itself."""
    if is_even(by_node):
        return Finding("leaders", "queues")
    return Finding("leaders", "queues", fix=FIX, unchecked=in_words(by_node))


async def look(management: Management) -> dict[str, int]:
    """Return how many of our queues each node leads. Raises `ManagementUnavailable`."""
    return spread(await management.nodes(), await management.queues())


async def rebalance(management: Management) -> tuple[dict[str, int], dict[str, int]]:
    """Have the broker spread the leaders of all its queues; return how many of ours each node leads before and after.

    Its user needs the tag administrator. Raises `ManagementUnavailable`.
    """
    before = await look(management)
    await management.rebalance()
    after = before
    ends_at = asyncio.get_running_loop().time() + _MOVED_SECONDS
    while not is_even(after) and asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(_LOOK_SECONDS)
        after = await look(management)
    return before, after
