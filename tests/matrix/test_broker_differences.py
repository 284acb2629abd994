"""What differs between versions of RabbitMQ and touches us, held against the version of this run: `make matrix`.

Delivery limits, and what nack and reject count towards them, are in `integration/test_consumer.py` and
`integration/test_topology.py`, and run on each version too. Here is what changes a server's settings, or takes long.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.services.broker import installed_version
from tests.services.management import ManagementError
from tests.services.services import private_broker
from tests.support.amqp import QUORUM, connected, consuming, depth, drained, fill, plain, publishing, taken
from tests.support.eventually import eventually, eventually_async
from worker import contract
from worker.ports import Confirmation, Outgoing
from worker.rabbit.stream import Stream
from worker.rabbit.topology import apply, problems, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Broker

_CANCELS_SINCE = (4, 3)
_HEAD_SINCE = (4, 3)
_DELAYS_SINCE = (4, 3, 1)
_KEEPS_RING_SINCE = (4, 3)
_HAS_MODULUS_SINCE = (4, 3)
_ONE_SECOND = "application:set_env(rabbit, {}, 1000)"
_LOOKS = 30
"""More than the limit of 20 that queues without a limit of their own have from 4.0 on."""


def version(broker: Broker) -> tuple[int, ...]:
    return tuple(map(int, broker.management.version().split(".")))


async def prepared(url: str) -> None:
    async with connected(url) as connection:
        await apply(connection, wanted((("1s", 1),), 20, connection.server_version))


async def test_dead_letters_can_be_looked_at_as_often_as_one_likes(vhost_url: str) -> None:
    await prepared(vhost_url)
    with plain(vhost_url) as channel:
        channel.basic_publish(contract.DEAD_LETTERS, "", b"a letter")
        for _ in range(_LOOKS):
            (method,) = eventually(lambda: _got(channel, contract.DEAD_LETTERS), "the letter")
            channel.basic_nack(method.delivery_tag, requeue=True)
    assert depth(vhost_url, contract.DEAD_LETTERS) == 1


async def test_a_returned_letter_goes_to_the_head_of_its_queue_from_43_on(broker: Broker, vhost_url: str) -> None:
    await prepared(vhost_url)
    with plain(vhost_url) as channel:
        for body in (b"first", b"second"):
            channel.basic_publish(contract.DEAD_LETTERS, "", body)
        eventually(lambda: depth(vhost_url, contract.DEAD_LETTERS) == 2)
        method, _properties, body = channel.basic_get(contract.DEAD_LETTERS)
        channel.basic_nack(method.delivery_tag, requeue=True)
        assert body == b"first"
        eventually(lambda: depth(vhost_url, contract.DEAD_LETTERS) == 2)
        _method, _properties, next_one = channel.basic_get(contract.DEAD_LETTERS)
    assert next_one == (b"first" if version(broker) >= _HEAD_SINCE else b"second")


async def test_an_acknowledgement_timeout_ends_the_consumer_and_brings_the_message_back(
    breakable_broker: LocalBroker,
) -> None:
    """Up to 4.2 the broker closes the AMQP channel; from 4.3 on it cancels the consumer and leaves the channel open."""
    shortened = map(_ONE_SECOND.format, ("consumer_timeout", "channel_tick_interval", "quorum_tick_interval"))
    breakable_broker.control("eval", ", ".join(shortened) + ".")
    url = breakable_broker.create_vhost("acknowledgement-timeout")
    fill(url, "q", b"held", arguments={**QUORUM, "x-consumer-timeout": 1000})
    async with consuming(url, "q") as (connection, consumer):
        (held,) = await taken(consumer, 1)
        await asyncio.wait_for(consumer.cancelled.wait(), 60)
        assert connection.is_open
        assert consumer.is_open == (connection.server_version >= _CANCELS_SINCE)
        await eventually_async(lambda: depth(url, "q") == 1)
        consumer.settle(held)  # too late, and harmless
    async with consuming(url, "q") as (_, consumer):
        (again,) = await taken(consumer, 1)
        assert (again.body, again.redelivered) == (b"held", True)


async def test_a_declared_conversation_is_there_for_the_next_publish(broker: Broker, vhost_url: str) -> None:
    """In a cluster with Khepri a declaration is done when most nodes have it: another one may still return an event."""
    await prepared(vhost_url)
    elsewhere = _through_another_node(broker, vhost_url)
    async with connected(vhost_url) as declaring, publishing(elsewhere) as (_, publisher):
        channel = await declaring.channel()
        await channel.call("queue_declare", "desk", durable=True, arguments=QUORUM)
        answers: list[Confirmation] = []
        for number in range(50):
            exchange = contract.conversation_exchange(f"c-{number}")
            await channel.call("exchange_declare", exchange, "fanout", durable=True)
            await channel.call("queue_bind", "desk", exchange, routing_key="")
            await channel.call("exchange_bind", exchange, contract.HUB, routing_key=f"c-{number}")
            answers += await publisher.publish([outgoing(number)])
        late = {Confirmation.RETURNED} if elsewhere != vhost_url else set()
        assert set(answers) <= {Confirmation.CONFIRMED} | late
        for number in range(50):
            assert await publisher.publish([outgoing(number)]) == [Confirmation.CONFIRMED]


def outgoing(number: int) -> Outgoing:
    return Outgoing(contract.HUB, f"c-{number}", f"m-{number}", b"{}")


def _through_another_node(broker: Broker, url: str) -> str:
    """Return the address of the same virtual host on another node; *url* itself where there is none."""
    own = urlsplit(url)
    listeners = broker.management.request("GET", "/overview")["listeners"]
    ports = [one["port"] for one in listeners if one["protocol"] == "amqp" and one["port"] != own.port]
    return url.replace(f":{own.port}/", f":{ports[0]}/") if ports else url


async def test_a_stream_is_read_twice_over_one_connection_which_stays_open(vhost_url: str) -> None:
    """Version 3.10 closes the connection at a nack on a stream: the reader only acknowledges."""
    await prepared(vhost_url)
    bodies = [str(number).encode() for number in range(500)]
    async with publishing(vhost_url) as (connection, publisher):
        await publisher.publish([Outgoing("", contract.OUTCOMES, body.decode(), body) for body in bodies])
        for _ in range(2):
            stream = Stream(connection, contract.OUTCOMES)
            ends = await eventually_async(stream.ends)
            read = [one.body async for messages in stream.read(last=ends.last.offset) for one in messages]
            assert read == bodies
        assert connection.is_open


def test_the_native_delay_of_retries_is_linear_and_counts_lost_connections_too(broker: Broker, vhost_url: str) -> None:
    """Why retries are copies in tiers; `deploy/rabbitmq/README.md` has the decision with its reasons."""
    vhost = vhost_url.rpartition("/")[2]
    delay = {"delayed-retry-type": "failed", "delayed-retry-min": 500, "delayed-retry-max": 60_000}
    if version(broker) < _DELAYS_SINCE:
        with pytest.raises(ManagementError, match="delayed-retry"):
            broker.management.set_policy(vhost, "delayed", "^q$", delay)
        return
    broker.management.set_policy(vhost, "delayed", "^q$", delay)
    fill(vhost_url, "q", b"fails")
    _fail(vhost_url, lambda channel, tag: channel.basic_reject(tag, requeue=True), after=0)
    _fail(vhost_url, lambda _channel, _tag: None, after=0.5)  # its connection is lost: nobody judged the message
    _fail(vhost_url, lambda channel, tag: channel.basic_nack(tag, requeue=True), after=1.0)
    _fail(vhost_url, lambda channel, tag: channel.basic_ack(tag), after=0)


def _fail(url: str, settle: Callable[[Any, int], object], *, after: float) -> None:
    """Take the message of `q`, which has to come *after* so many seconds, and end the connection."""
    with plain(url) as channel:
        started = time.monotonic()
        (found,) = eventually(lambda: _got(channel, "q"), "the message")
        waited = time.monotonic() - started
        settle(channel, found.delivery_tag)
    assert after * 0.8 <= waited <= after + 5


def _got(channel: Any, queue: str) -> list[Any]:
    method, _properties, _body = channel.basic_get(queue)
    return [method] if method else []


def test_a_restart_moves_no_key_to_another_partition_from_4_3_on(rabbitmq_root: Path | None) -> None:
    """Earlier versions may have another ring then: what is promised of order ends there (deploy/partitions.md)."""
    keys = [f"key-{number}" for number in range(60)]
    with private_broker(chroot=rabbitmq_root, say=lambda _line: None) as node:
        url = node.create_vhost("ring")
        asyncio.run(_divided(url, 3))
        before = _places(url, keys, 3)
        node.restart()
        after = _places(url, keys, 3)
    assert before.keys() == after.keys() == set(keys), "each leads to one partition"
    if installed_version(rabbitmq_root) >= _KEEPS_RING_SINCE:
        assert before == after


def test_one_queue_more_moves_most_keys_of_a_modulus_hash_exchange_and_few_of_ours(
    broker: Broker, vhost_url: str
) -> None:
    """Which is why `topology apply` makes the consistent-hash one on every version (deploy/partitions.md)."""
    keys = [f"key-{number}" for number in range(200)]
    asyncio.run(_divided(vhost_url, 3))
    few = _moved_by_one_more(lambda: _places(vhost_url, keys, 4), lambda: asyncio.run(_divided(vhost_url, 4)))
    assert {after for _, after in few} == {3}
    assert len(few) < len(keys) / 2

    with plain(vhost_url) as channel:
        if version(broker) < _HAS_MODULUS_SINCE:
            with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="unknown exchange type"):
                channel.exchange_declare("modulus", "x-modulus-hash", durable=True)
            return
        channel.exchange_declare("modulus", "x-modulus-hash", durable=True)
        for number in range(4):
            channel.queue_declare(f"m.{number}", durable=True, arguments=QUORUM)
        for number in range(3):
            channel.queue_bind(f"m.{number}", "modulus")
        many = _moved_by_one_more(
            lambda: _places(vhost_url, keys, 4, "modulus", "m.{}"), lambda: channel.queue_bind("m.3", "modulus")
        )
    assert len(many) > len(keys) / 2


def _moved_by_one_more(look: Callable[[], dict[str, int]], add: Callable[[], object]) -> list[tuple[int, int]]:
    """Return from where to where keys moved when a queue was added."""
    before = look()
    add()
    after = look()
    return [(before[key], after[key]) for key in before if before[key] != after[key]]


async def _divided(url: str, partitions: int) -> None:
    async with connected(url) as connection:
        topology = wanted((("1s", 1),), 20, connection.server_version, partitions=partitions)
        assert not list(problems(await apply(connection, topology)))


def _places(
    url: str, keys: Sequence[str], queues: int, exchange: str = contract.INGRESS, queue: str = "cim.ingress.{}"
) -> dict[str, int]:
    """Return the number of the queue that each of *keys* leads to now."""
    with plain(url) as channel:
        for key in keys:
            channel.basic_publish(exchange, key, key.encode(), mandatory=True)
    made = {number: queue.format(number) for number in range(queues)}
    return {
        body.decode(): number
        for number, name in made.items()
        if _is_there(url, name)
        for *_, body in drained(url, name)
    }


def _is_there(url: str, queue: str) -> bool:
    with plain(url) as channel:
        try:
            channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True
