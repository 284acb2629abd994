"""The topology as a definitions file, which RabbitMQ imports: for those who keep their broker as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.contract import INGRESS, PARTITIONS

if TYPE_CHECKING:
    from worker.rabbit.topology import Queue, Topology


_KNOWS_DISCONNECTED = (4, 3)
_DISCONNECTED_MS = 2000


def definitions(topology: Topology, vhost: str, version: tuple[int, ...]) -> dict[str, Any]:
    """Return *topology* in virtual host *vhost* as definitions for RabbitMQ of *version*.

    Virtual host, exchanges, queues, bindings; from 4.3 on also the policy by which a queue gives what a dead node had
    handed out to others at once, and not after a minute. Older versions refuse that policy.

    No users and no permissions: importing those would replace passwords.
    """
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": one.name,
                "vhost": vhost,
                "type": one.type,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for one in topology.exchanges
        ],
        "queues": [_queue(one, vhost) for one in topology.queues],
        "bindings": [
            *([_binding(INGRESS, "exchange", PARTITIONS, "#", vhost)] if topology.partitions else ()),
            *(_binding(exchange, "queue", queue.name, queue.key, vhost) for exchange, queue in topology.bindings),
        ],
        "policies": [_disconnected(vhost)] if version >= _KNOWS_DISCONNECTED else [],
    }


def _binding(source: str, kind: str, destination: str, key: str, vhost: str) -> dict[str, Any]:
    return {
        "source": source,
        "vhost": vhost,
        "destination": destination,
        "destination_type": kind,
        "routing_key": key,
        "arguments": {},
    }


def _disconnected(vhost: str) -> dict[str, Any]:
    return {
        "name": "cim-disconnected",
        "vhost": vhost,
        "pattern": r"^cim\.",
        "apply-to": "quorum_queues",
        "definition": {"consumer-disconnected-timeout": _DISCONNECTED_MS},
        "priority": 0,
    }


def _queue(queue: Queue, vhost: str) -> dict[str, Any]:
    return {
        "name": queue.name,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": dict(queue.arguments),
    }
