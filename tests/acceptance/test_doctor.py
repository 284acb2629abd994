"""The doctor names what is wrong with broker, store and machine, each with its fix, and changes nothing."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pymongo
import pytest

from tests.services.processes import free_ports
from tests.support.amqp import connected, plain
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.mongo.client import connect
from worker.process.doctor import canary
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Broker, Store


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def examine(world: World, *arguments: str, code: int = 0, **variables: str) -> dict[str, list[dict[str, Any]]]:
    """Return the findings by what they are about."""
    settings = {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_RETRY_DELAYS": "1s",
        "CIM_HTTP_PORT": str(free_ports(1)[0]),
        **variables,
    }
    finished = cim_worker("doctor", "--json", *arguments, **settings)
    assert finished.returncode == code, finished.stdout + finished.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(finished.stdout)["findings"]:
        assert one["fix"] or one["state"] == "ok", f"no fix: {one}"
        found.setdefault(one["what"], []).append(one)
    return found


def states(found: dict[str, list[dict[str, Any]]], what: str) -> set[str]:
    return {one["state"] for one in found[what]}


def test_a_sound_pool_has_no_problem_and_what_cannot_be_seen_is_said(world: World) -> None:
    found = examine(world)
    assert states(found, "rights") == states(found, "heartbeat") == states(found, "message size") == {"ok"}
    assert states(found, "queue cim.ingress") == states(found, "registry records") == states(found, "memory") == {"ok"}
    assert states(found, "alarms") == states(found, "policies all") == {"not checked"}
    assert found["alarms"][0]["fix"] == "set CIM_RABBITMQ_MANAGEMENT_URL"
    assert states(found, "consumers") == {"warning"}
    assert states(found, "rights too wide") == {"warning"}, "the user of the tests may do anything"


def test_the_management_api_shows_alternate_exchanges_dropping_policies_and_subscribers_that_refuse(
    world: World, broker: Broker
) -> None:
    vhost = urlsplit(world.amqp_url).path[1:]
    elsewhere = {"alternate-exchange": "amq.fanout"}
    broker.management.set_policy(vhost, "away", "^cim.conversations$", elsewhere, "exchanges")
    broker.management.set_policy(vhost, "full", "^cim.ingress$", {"overflow": "drop-head", "max-length": 10}, "queues")
    with plain(world.amqp_url) as channel:
        channel.exchange_declare("conversation.c-1", "fanout", durable=True)
        channel.queue_declare("crm.full", arguments={"x-max-length": 5, "x-overflow": "reject-publish"})
        channel.queue_bind("crm.full", "conversation.c-1")
    nodes = broker.management
    eventually(lambda: "mem_alarm" in nodes.request("GET", "/nodes")[0], "a young node has statistics")
    found = examine(world, code=2, CIM_RABBITMQ_MANAGEMENT_URL=broker.management.url)
    assert states(found, "policy away on exchange cim.conversations") == {"problem"}
    assert states(found, "policy full on queue cim.ingress") == {"problem"}
    (refusing,) = found["subscribers' queues that refuse"]
    assert (refusing["state"], "crm.full" in refusing["detail"]) == ("warning", True)
    assert states(found, "alarms") == states(found, "consumer timeout") == {"ok"}


def test_a_broker_with_a_memory_alarm_is_named_and_does_not_stop_the_examination(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(breakable_broker.create_vhost(f"alarm-{uuid.uuid4().hex}"), store.uri, database, tmp_path)
    world.apply_topology()
    breakable_broker.set_memory_alarm(True)
    try:
        nodes = breakable_broker.management
        eventually(lambda: nodes.request("GET", "/nodes")[0].get("mem_alarm"), "the management API knows of it")
        found = examine(world, code=2, CIM_RABBITMQ_MANAGEMENT_URL=breakable_broker.management.url)
        applied = cim_worker("topology", "apply", CIM_RABBITMQ_URL=world.amqp_url, CIM_RETRY_DELAYS="1s")
    finally:
        breakable_broker.set_memory_alarm(False)
    assert applied.returncode == 0
    assert applied.stderr.startswith("cim-worker: the broker blocks publishers (low on memory): waiting until")
    (alarm,), (publishing,) = found["alarms"], found["publishing"]
    assert (alarm["state"], publishing["state"]) == ("problem", "problem")
    assert "memory of" in alarm["detail"]
    assert states(found, "message size") == {"not checked"}
    assert states(found, "queue cim.ingress") == states(found, "registry records") == {"ok"}


def test_missing_rights_and_a_missing_queue_are_problems(world: World, broker: Broker) -> None:
    user, vhost = f"worker-{uuid.uuid4().hex[:8]}", urlsplit(world.amqp_url).path[1:]
    broker.management.create_user(user, "sesame")
    broker.management.set_permissions(user, vhost, configure="^$", write="^cim.*$", read="^cim\\..*$")
    with plain(world.amqp_url) as channel:
        channel.queue_delete("cim.ingress.waiting")
    found = examine(
        world,
        code=2,
        CIM_RABBITMQ_URL=world.amqp_url.replace("guest:guest", f"{user}:sesame"),
    )
    (rights,) = found["rights"]
    assert rights["state"] == "problem"
    assert "write to the exchange amq.default" in rights["detail"]
    assert states(found, "rights too wide") == {"ok"}
    (missing,) = found["queue cim.ingress.waiting"]
    assert (missing["state"], missing["detail"]) == ("problem", "missing")


def test_a_record_nobody_can_read_is_named(world: World) -> None:
    with pymongo.MongoClient[dict[str, Any]](world.mongodb_uri) as client:
        client[world.database]["conversations"].insert_one(
            {"_id": "c-bad", "state": "ACTIVE", "stateUpdatedAt": datetime.now(UTC)}
        )
    found = examine(world, code=2)
    (record,) = found["registry records"]
    assert record["state"] == "problem"
    assert "c-bad" in record["detail"]


def test_limits_ports_memory_and_misspelt_variables_are_warnings(world: World) -> None:
    with world.pool() as pool:
        pool.wait_for("consuming")
        found = examine(
            world,
            CIM_HTTP_PORT=str(pool.http_port),
            CIM_PROCESSES="256",
            CIM_MAX_BYTES_IN_FLIGHT=str(1 << 30),
            CIM_PREFECH="1",
        )
        assert states(found, "consumers") == {"ok"}
    (port,) = found["HTTP port"]
    assert port["state"] == "warning"
    assert port["fix"] == "right while a pool runs here; else set CIM_HTTP_PORT to a free one"
    assert states(found, "memory") == {"warning"}
    assert found["variable CIM_PREFECH"][0]["fix"] == "did you mean CIM_PREFETCH?"


def test_what_cannot_be_reached_is_a_finding_and_the_rest_is_examined(world: World) -> None:
    nowhere = f"mongodb://127.0.0.1:{free_ports(1)[0]}/"
    found = examine(world, code=4, CIM_MONGODB_URI=nowhere, CIM_MONGODB_TIMEOUT_MS="1000")
    (connection,) = found["connection"]
    assert (connection["area"], connection["state"]) == ("store", "problem")
    assert states(found, "rights") == {"ok"}


def test_the_canary_goes_through_a_retry_tier_and_the_dead_letters_and_leaves_nothing(world: World) -> None:
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="200") as pool:
        pool.wait_for("consuming")
        found = examine(world, "--canary", CIM_RECORD_INTERVAL_MS="200")
        assert states(found, "retry tier and dead letters") == {"ok"}
        assert world.collection("dead_letters") == []
        queues = ("cim.ingress", "cim.ingress.retry.1s", "cim.dead-letters")
        assert [world.depth(queue) for queue in queues] == [0, 0, 0]


async def test_a_canary_that_does_not_come_through_is_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "_SLACK_SECONDS", 0.2)
    settings = load_settings(
        rabbitmq_url=world.amqp_url, mongodb_uri=world.mongodb_uri, retry_delays="1s", record_interval_ms=100
    )
    store = connect(world.mongodb_uri, world.database)
    async with connected(world.amqp_url) as connection:
        (found,) = await canary.send_canary(connection, store, settings)
    await store.close()
    assert found.state == "problem"
    assert "is a pool running" in found.fix


def test_the_table_shows_the_worst_first_and_counts(world: World) -> None:
    with plain(world.amqp_url) as channel:
        channel.queue_delete("cim.ingress.waiting")
    finished = cim_worker(
        "doctor", CIM_RABBITMQ_URL=world.amqp_url, CIM_MONGODB_URI=world.mongodb_uri, CIM_RETRY_DELAYS="1s"
    )
    assert finished.returncode == 2
    first, *rest = finished.stdout.splitlines()
    assert first == "state\tarea\twhat\tfound\tfix"
    assert rest[0].startswith("problem\tbroker\tqueue cim.ingress.waiting\tmissing\t")
    assert " ok, " in rest[-1]
