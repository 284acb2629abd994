"""Every exchange, queue and binding of the contract: applied, checked, and doing what they are for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika.exceptions
import pytest

from tests.support.amqp import connected, consuming, depth, gathered, plain, taken
from tests.support.eventually import eventually
from worker.rabbit.topology import Finding, Topology, apply, check, problems, wanted

if TYPE_CHECKING:
    from tests.services.services import Broker
    from worker.rabbit.connection import Connection

TIERS = (("1s", 1), ("10s", 10))
EXCHANGES = {
    "cim.ingress": "topic",
    "cim.conversations": "direct",
    "cim.conversation-events": "topic",
    "cim.dead-letters": "fanout",
}
QUEUES = {
    "cim.ingress",
    "cim.ingress.waiting",
    "cim.ingress.retry.1s",
    "cim.ingress.retry.10s",
    "cim.conversation-events",
    "cim.dead-letters",
    "cim.dead-letters.parked",
    "cim.outcomes",
}


def topology(connection: Connection, delivery_limit: int = 3) -> Topology:
    return wanted(TIERS, delivery_limit, connection.server_version)


async def applied(url: str, **options: Any) -> list[Finding]:
    async with connected(url) as connection:
        return await apply(connection, topology(connection, **options))


async def checked(url: str, **options: Any) -> list[Finding]:
    """Return what a check finds to be wrong."""
    return list(problems(await all_rows(url, **options)))


async def all_rows(url: str, **options: Any) -> list[Finding]:
    async with connected(url) as connection:
        return await check(connection, topology(connection, **options))


def publish(url: str, exchange: str, key: str, body: bytes = b"{}") -> None:
    with plain(url) as channel:
        channel.basic_publish(exchange, key, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


async def test_everything_of_the_contract_is_created_on_an_empty_virtual_host(broker: Broker, vhost_url: str) -> None:
    assert not list(problems(await applied(vhost_url)))
    vhost = urlsplit(vhost_url).path[1:]
    exchanges = {one["name"]: one["type"] for one in broker.management.request("GET", f"/exchanges/{vhost}")}
    assert EXCHANGES.items() <= exchanges.items()
    queues = broker.management.request("GET", f"/queues/{vhost}?columns=name,type,durable,arguments")
    assert {one["name"] for one in queues} == QUEUES
    (journal,) = [one for one in queues if one["name"] == "cim.outcomes"]
    bounds = {"x-queue-type": "stream", "x-max-length-bytes": 1024**3, "x-max-age": "7D"}
    assert journal["arguments"] == bounds
    for one in queues:
        if one is journal:
            continue
        assert one["arguments"]["x-queue-type"] == "quorum"
        assert one["arguments"]["x-overflow"] == "reject-publish"
        assert one["durable"]
        if "x-dead-letter-exchange" in one["arguments"]:
            assert one["arguments"]["x-dead-letter-strategy"] == "at-least-once"


async def test_applying_twice_is_the_same_as_once_and_keeps_messages(vhost_url: str) -> None:
    first = await applied(vhost_url)
    publish(vhost_url, "", "cim.ingress")
    assert await applied(vhost_url) == first
    assert await checked(vhost_url) == []
    eventually(lambda: depth(vhost_url, "cim.ingress") == 1)


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("", "cim.ingress", "cim.ingress"),
        ("cim.ingress", "any.key", "cim.ingress"),
        ("cim.ingress", "", "cim.ingress"),
        ("cim.conversation-events", "TOPIC_STATE_CHANGED", "cim.conversation-events"),
        ("cim.dead-letters", "", "cim.dead-letters"),
        ("", "cim.dead-letters.parked", "cim.dead-letters.parked"),
        ("", "cim.ingress.waiting", "cim.ingress.waiting"),
    ],
)
async def test_every_way_in_leads_to_its_queue(vhost_url: str, exchange: str, key: str, queue: str) -> None:
    await applied(vhost_url)
    publish(vhost_url, exchange, key)
    eventually(lambda: depth(vhost_url, queue) == 1)


async def test_the_hub_takes_nobody_until_a_conversation_is_bound(vhost_url: str) -> None:
    await applied(vhost_url)
    with pytest.raises(pika.exceptions.UnroutableError):
        publish(vhost_url, "cim.conversations", "some-conversation")


async def test_a_check_of_an_empty_virtual_host_names_everything_and_creates_nothing(vhost_url: str) -> None:
    found = await checked(vhost_url)
    assert {one.name for one in found} == QUEUES | set(EXCHANGES)
    assert all(one.is_missing and one.fix and "topology apply" in one.fix for one in found)
    assert await checked(vhost_url) == found


async def test_each_mismatch_is_named_with_its_difference_and_a_fix_and_nothing_is_changed(vhost_url: str) -> None:
    with plain(vhost_url) as channel:
        channel.exchange_declare("cim.conversations", "topic", durable=True)
        channel.exchange_declare("cim.dead-letters", "fanout", durable=False)
        channel.queue_declare("cim.ingress", durable=True, arguments={"x-queue-type": "classic"})
        channel.queue_declare("cim.dead-letters.parked", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare(
            "cim.ingress.retry.1s",
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-message-ttl": 5000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "cim.ingress",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
    by_apply = {one.name: one for one in problems(await applied(vhost_url))}
    by_check = {one.name: one for one in await checked(vhost_url)}
    assert by_apply == by_check
    for one in by_check.values():
        assert one.fix
        assert one.name in one.fix
        assert not one.is_missing
    said = {name: str(one.problem) for name, one in by_check.items()}
    letters = said.pop("cim.dead-letters.parked")
    assert said == {
        "cim.conversations": "is topic, must be direct",
        "cim.dead-letters": "is not durable, must be: it ends with the broker",
        "cim.ingress": "is classic, must be quorum: its messages are on one node only",
        "cim.ingress.retry.1s": "x-message-ttl is 5000, must be 1000",
    }
    assert letters in {"x-overflow is not set, must be reject-publish", "x-delivery-limit is not set, must be -1"}


async def test_another_delivery_limit_is_a_mismatch(vhost_url: str) -> None:
    await applied(vhost_url, delivery_limit=3)
    found = {one.name: str(one.problem) for one in await checked(vhost_url, delivery_limit=5)}
    assert set(found) == {"cim.ingress", "cim.ingress.waiting", "cim.conversation-events"}
    assert "x-delivery-limit" in found["cim.ingress"]


async def test_missing_permissions_are_told_per_thing(broker: Broker, vhost_url: str) -> None:
    await applied(vhost_url)
    vhost = urlsplit(vhost_url).path[1:]
    broker.management.create_user("modest", "pw")
    url = vhost_url.replace("guest:guest@", "modest:pw@")
    for rights in ({"write": ".*", "read": ".*"}, {"write": "^$", "read": "^$"}):
        broker.management.set_permissions("modest", vhost, configure="^$", **rights)
        assert await checked(url) == []
        assert {one.name for one in await all_rows(url) if one.unchecked} == QUEUES | set(EXCHANGES)
    by_apply = list(problems(await applied(url)))
    assert {one.name for one in by_apply} == QUEUES | set(EXCHANGES)
    assert all(one.fix for one in by_apply)


async def test_a_retry_tier_brings_a_message_back_to_ingress(vhost_url: str) -> None:
    await applied(vhost_url)
    publish(vhost_url, "", "cim.ingress.retry.1s", b"again")
    ((_, _, body),) = gathered(vhost_url, "cim.ingress", 1)
    assert body == b"again"
    eventually(lambda: depth(vhost_url, "cim.ingress.retry.1s") == 0)


@pytest.mark.parametrize("queue", ["cim.ingress", "cim.ingress.waiting"])
async def test_a_message_handed_out_too_often_becomes_a_dead_letter_with_the_brokers_reason(
    vhost_url: str, queue: str
) -> None:
    await applied(vhost_url, delivery_limit=3)
    publish(vhost_url, "", queue, b"poison")
    for _ in range(4):
        async with consuming(vhost_url, queue, prefetch=1) as (_, consumer):
            await taken(consumer, 1)
            await consumer.hand_back(failed=True)
    ((_, properties, body),) = await asyncio.to_thread(gathered, vhost_url, "cim.dead-letters", 1)
    assert body == b"poison"
    assert properties.headers["x-first-death-reason"] == "delivery_limit"
    assert depth(vhost_url, queue) == 0
