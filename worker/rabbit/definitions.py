"""The topology as a definitions file, which RabbitMQ imports: for those who keep their broker as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.rabbit.topology import Queue, Topology


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """Return *topology* in virtual host *vhost* as RabbitMQ's definitions: virtual host, exchanges, queues, bindings.

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
            {
                "source": exchange,
                "vhost": vhost,
                "destination": queue.name,
                "destination_type": "queue",
                "routing_key": "#",
                "arguments": {},
            }
            for queue in topology.queues
            for exchange in queue.bound_to
        ],
    }


def _queue(queue: Queue, vhost: str) -> dict[str, Any]:
    return {
        "name": queue.name,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": dict(queue.arguments),
    }
