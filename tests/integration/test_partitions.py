"""A partitioned ingress on the broker: made and grown under load, one way for each message, seen by every check."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import pika
import pytest

from tests.support.amqp import connected, depth, drained, plain
from tests.support.eventually import eventually
from worker.rabbit.definitions import definitions
from worker.rabbit.errors import TopologyMismatch
from worker.rabbit.hazards import hazards
from worker.rabbit.management import Management
from worker.rabbit.topology import Finding, Topology, apply, check, found_partitions, problems, wanted

if TYPE_CHECKING:
    from tests.services.broker import LocalBroker
    from tests.services.services import Broker
    from worker.rabbit.connection import Connection

INGRESS = "cim.ingress"


def topology(connection: Connection, partitions: int) -> Topology:
    return wanted((("1s", 1),), 20, connection.server_version, partitions=partitions)


def applied(url: str, partitions: int) -> list[Finding]:
    """Apply *partitions* and return the findings; none is a problem."""

    async def run() -> list[Finding]:
        async with connected(url) as connection:
            findings = await apply(connection, topology(connection, partitions))
            assert await found_partitions(connection) == partitions
            assert not list(problems(await check(connection, topology(connection, partitions))))
            return findings

    findings = asyncio.run(run())
    assert not list(problems(findings))
    return findings


def vhost_of(url: str) -> str:
    return urlsplit(url).path[1:]


def found_in(url: str, *queues: str) -> list[str]:
    return [body.decode() for queue in queues for *_, body in drained(url, queue)]


class Load:
    """Publishes with ever other keys, each message confirmed and never returned, until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url, self.count = url, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_for(self, more: int) -> None:
        wanted_count = self.count + more
        eventually(lambda: self._error is not None or self.count >= wanted_count, "the load")

    def _run(self) -> None:
        try:
            with plain(self._url) as channel:
                while not self._stop.is_set():
                    body = str(self.count).encode()
                    channel.basic_publish(
                        INGRESS, f"key-{self.count}", body, pika.BasicProperties(delivery_mode=2), mandatory=True
                    )
                    self.count += 1
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._error = error


def test_partitions_are_made_and_grown_under_load_and_every_message_arrives_once(vhost_url: str) -> None:
    applied(vhost_url, 0)
    with Load(vhost_url) as load:
        for partitions in (1, 2, 4, 5):
            load.wait_for(40)
            applied(vhost_url, partitions)
        load.wait_for(40)

    queues = [INGRESS, *(f"{INGRESS}.{number}" for number in range(5))]
    found = {queue: found_in(vhost_url, queue) for queue in queues}
    assert Counter(body for bodies in found.values() for body in bodies) == Counter(map(str, range(load.count)))
    assert all(found.values()), {queue: len(bodies) for queue, bodies in found.items()}


def test_one_key_has_one_partition_and_a_new_one_takes_keys_from_the_others_only_for_itself(vhost_url: str) -> None:
    keys = [f"conversation-{number}" for number in range(60)]
    places = []
    for partitions in (4, 5):
        applied(vhost_url, partitions)
        with plain(vhost_url) as channel:
            for key in (*keys, *keys):
                channel.basic_publish(INGRESS, key, key.encode(), mandatory=True)
        found = {number: found_in(vhost_url, f"{INGRESS}.{number}") for number in range(partitions)}
        assert all(count == 2 for bodies in found.values() for count in Counter(bodies).values())
        places.append({key: number for number, bodies in found.items() for key in bodies})
    moved = {key for key in keys if places[0][key] != places[1][key]}
    assert moved
    assert {places[1][key] for key in moved} == {4}


def test_applying_without_a_number_keeps_the_partitions_and_binds_nothing_beside_them(vhost_url: str) -> None:
    first = applied(vhost_url, 2)
    assert applied(vhost_url, 2) == first
    with plain(vhost_url) as channel:
        channel.basic_publish(INGRESS, "any", b"1", mandatory=True)
    assert found_in(vhost_url, INGRESS, f"{INGRESS}.0", f"{INGRESS}.1") == ["1"]
    names = {one.name for one in first}
    assert names >= {
        f"{INGRESS}.partitions",
        f"{INGRESS} → {INGRESS}.partitions",
        f"{INGRESS}.partitions → {INGRESS}.1",
    }


def test_a_run_that_was_interrupted_at_any_step_is_taken_up_by_the_next(vhost_url: str) -> None:
    """Each statement of the broker adapter is one step; the run is cut after the first, the second, and so on."""
    steps = 0

    async def interrupted(after: int) -> bool:
        async with connected(vhost_url) as connection:
            original, left = connection.channel, after

            async def channel() -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise InterruptedError
                return await original()

            connection.channel = channel  # type: ignore[method-assign]
            try:
                await apply(connection, topology(connection, 2))
            except InterruptedError:
                return True
        return False

    applied(vhost_url, 0)
    while asyncio.run(interrupted(steps)):
        steps += 1
        with plain(vhost_url) as channel:
            channel.basic_publish(INGRESS, f"key-{steps}", str(steps).encode(), mandatory=True)
    found = found_in(vhost_url, INGRESS, f"{INGRESS}.0", f"{INGRESS}.1")
    assert Counter(found) == Counter(str(number + 1) for number in range(steps))
    applied(vhost_url, 2)


def test_without_the_plugin_one_sentence_says_what_to_enable(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("no-plugin")

    async def run() -> None:
        async with connected(url) as connection:
            await apply(connection, topology(connection, 2))

    with pytest.raises(TopologyMismatch, match="rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"):
        asyncio.run(run())


def test_the_management_api_shows_whether_there_is_one_way_in(broker: Broker, vhost_url: str) -> None:
    applied(vhost_url, 2)
    management = Management(broker.management.url, vhost_of(vhost_url))

    async def said() -> dict[str, str | None]:
        async with connected(vhost_url) as connection:
            assert await management.partitions() == 2
            return {one.name: one.problem for one in await hazards(management, topology(connection, 2))}

    way = f"{INGRESS} → {INGRESS}.partitions"
    eventually(lambda: not any(asyncio.run(said()).values()), "every binding to be seen")
    with plain(vhost_url) as channel:
        channel.queue_bind(INGRESS, INGRESS, "#")
    eventually(lambda: "arrives twice" in str(asyncio.run(said())[way]), "the second way to be seen")
    with plain(vhost_url) as channel:
        channel.exchange_unbind(f"{INGRESS}.partitions", INGRESS, "#")
        channel.queue_unbind(f"{INGRESS}.1", f"{INGRESS}.partitions", "1")
    eventually(lambda: asyncio.run(said())[way] == "missing", "the missing way to be seen")
    assert asyncio.run(said())[f"{INGRESS}.partitions → {INGRESS}.1"] == "missing"


def test_the_definitions_make_what_apply_makes(broker: Broker, vhost_url: str) -> None:
    async def made() -> dict[str, Any]:
        async with connected(vhost_url) as connection:
            version = connection.server_version
            return definitions(topology(connection, 2), vhost_of(vhost_url), version)

    broker.management.request("POST", "/definitions", json.loads(json.dumps(asyncio.run(made()))))
    asyncio.run(_has_two(vhost_url))
    with plain(vhost_url) as channel:
        channel.basic_publish(INGRESS, "any", b"1", mandatory=True)
    eventually(lambda: sum(depth(vhost_url, f"{INGRESS}.{number}") for number in (0, 1)) == 1)
    assert depth(vhost_url, INGRESS) == 0
    applied(vhost_url, 2)
    assert broker.management.request("GET", f"/bindings/{quote(vhost_of(vhost_url))}/e/{INGRESS}/q/{INGRESS}") == []


async def _has_two(url: str) -> None:
    async with connected(url) as connection:
        assert await found_partitions(connection) == 2
