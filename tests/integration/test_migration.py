"""A queue whose arguments cannot be changed is taken through to others under load, and no message is lost."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika
import pytest

from tests.support.amqp import connected, depth, drained, plain
from tests.support.steady_load import SteadyLoad
from worker.rabbit.errors import TopologyMismatch
from worker.rabbit.management import Management
from worker.rabbit.migration import Migration
from worker.rabbit.topology import Topology, apply, check, problems, wanted

if TYPE_CHECKING:
    from tests.services.services import Broker

Q = "cim.ingress"


def topology(version: tuple[int, ...], limit: int) -> Topology:
    return wanted((("1s", 1),), limit, version)


async def applied(url: str, limit: int) -> None:
    async with connected(url) as connection:
        assert not list(problems(await apply(connection, topology(connection.server_version, limit))))


async def migrate(broker: Broker, url: str, limit: int, name: str = Q, *, seconds: float = 60.0) -> Migration:
    """Take one queue through to another delivery limit, and see that everything is as wanted."""
    management = Management(broker.management.url, urlsplit(url).path[1:])
    async with connected(url) as connection:
        everything = topology(connection.server_version, limit)
        migration = Migration(connection, management, consumers_seconds=seconds)
        await migration.take_through(next(queue for queue in everything.queues if queue.name == name))
        findings = {one.name: one.problem for one in await check(connection, everything)}
    assert findings[name] is None
    return migration


def bodies(url: str, name: str = Q) -> list[str]:
    return [json.loads(body)["id"] for *_, body in drained(url, name)]


@pytest.mark.parametrize("exchange", ["cim.ingress", ""], ids=["through the exchange", "by the queue's name"])
def test_nothing_is_lost_while_publishers_go_on(broker: Broker, vhost_url: str, exchange: str) -> None:
    asyncio.run(applied(vhost_url, 3))

    with SteadyLoad(vhost_url, "c-1", exchange=exchange) as load:
        while load.count < 50:
            threading.Event().wait(0.02)
        asyncio.run(migrate(broker, vhost_url, 30))

    found, sent = Counter(bodies(vhost_url)), {*load.live, *load.stored, *load.invalid}
    assert set(found) == sent
    assert sum(found.values()) - len(sent) < 20  # what came while both queues were bound
    assert exchange == "" or load.refused == 0
    assert broker.management.queues(urlsplit(vhost_url).path[1:]).count("cim.ingress.migration") == 0


def test_messages_arrive_byte_for_byte_with_the_user_the_broker_checked(broker: Broker, vhost_url: str) -> None:
    asyncio.run(applied(vhost_url, 3))
    sent = pika.BasicProperties(
        message_id="m-1", user_id="guest", headers={"cim-attempt": 3, "CC": ["cim.dead-letters"], "half": b"\xff"}
    )
    with plain(vhost_url) as channel:
        channel.basic_publish("cim.ingress", "c-1", b'{"id": "m-1"}', sent)

    asyncio.run(migrate(broker, vhost_url, 30))

    [(_, properties, body)] = drained(vhost_url, Q)
    assert body == b'{"id": "m-1"}'
    assert (properties.user_id, properties.message_id) == ("guest", "m-1")
    own = {name: value for name, value in properties.headers.items() if name != "x-delivery-count"}
    assert own == {"cim-attempt": 3, "CC": ["cim.dead-letters"], "half": b"\xff"}
    assert depth(vhost_url, "cim.dead-letters") == 0


def test_a_classic_queue_becomes_a_quorum_queue(broker: Broker, vhost_url: str) -> None:
    with plain(vhost_url) as channel:
        channel.queue_declare(Q, durable=True)
        for number in range(1200):
            channel.basic_publish("", Q, json.dumps({"id": f"m-{number}"}).encode())

    async def run() -> None:
        async with connected(vhost_url) as connection:
            await apply(connection, topology(connection.server_version, 3))
        await migrate(broker, vhost_url, 3)

    asyncio.run(run())

    assert Counter(bodies(vhost_url)) == Counter(f"m-{number}" for number in range(1200))


def test_while_somebody_takes_from_it_nothing_is_done(broker: Broker, vhost_url: str) -> None:
    asyncio.run(applied(vhost_url, 3))
    with plain(vhost_url) as channel:
        channel.basic_publish("cim.ingress", "c-1", b'{"id": "m-1"}')
        channel.basic_consume(Q, lambda *_: None)

        with pytest.raises(TopologyMismatch, match="1 consumers take from"):
            asyncio.run(migrate(broker, vhost_url, 30, seconds=0.2))

    with plain(vhost_url) as channel:
        channel.basic_publish("cim.ingress", "c-1", b'{"id": "m-2"}', mandatory=True)
    asyncio.run(migrate(broker, vhost_url, 30))
    assert sorted(bodies(vhost_url)) == ["m-1", "m-2"]
