"""An operator pauses a pool: it takes nothing, through restarts and while the store is away, until it is resumed."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.wire_proxy import WireProxy, error
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess


@pytest.fixture
def world(vhost_url: str, proxy: WireProxy, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, proxy.uri, database, tmp_path)
    made.apply_topology()
    return made


def activity(message_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


def operate(world: World, *arguments: str) -> CompletedProcess[str]:
    return cim_worker(*arguments, CIM_MONGODB_URI=world.mongodb_uri, CIM_MONGODB_DATABASE=world.database)


def test_a_paused_pool_takes_nothing_until_it_is_resumed_whatever_restarts_meanwhile(
    world: World, proxy: WireProxy
) -> None:
    with world.pool("--processes", "2", CIM_RECORD_INTERVAL_MS="500", poison="p0ison") as pool:
        eventually(lambda: pool.ready()[0], "ready")
        world.publish(activity("before"))
        eventually(lambda: world.stored("before"))

        paused = operate(world, "pause", "--reason", "store maintenance")
        assert (paused.returncode, paused.stderr) == (0, "")
        assert paused.stdout == "pool default: paused; 2 of 2 processes paused\n"
        world.publish(activity("meanwhile"))
        eventually(lambda: pool.says("paused by "), "not ready")
        assert pool.says(": store maintenance")
        assert pool.metrics_now()["cim_paused"] == 1
        assert {line["reason"] for line in pool.lines("paused")} == {"store maintenance"}
        assert pool.metrics()["cim_prefetch"] == 0

        away = proxy.on("find", collection="pools", answer=error(10107, "NotWritablePrimary"))
        before = pool.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(pool.workers()) - set(before)) == 2, "two others")
        eventually(lambda: not pool.says("starting") and pool.says("paused by"), "they know it from the one before")
        assert world.depth("cim.ingress") == 1
        away.end()
        assert world.stored("meanwhile") is None
        pool.signal()
        assert pool.wait() == 0

    with world.pool() as pool:
        eventually(lambda: pool.says("paused by"), "a new pool of that name is paused")
        assert world.depth("cim.ingress") == 1
        resumed = operate(world, "resume", "--json")
        assert resumed.returncode == 0
        document = json.loads(resumed.stdout)
        assert (document["paused"], [one["followed"] for one in document["processes"]]) == (False, [True])
        eventually(lambda: world.stored("meanwhile"))
        eventually(lambda: pool.ready()[0], "ready again")
        pool.wait_for("resumed")
        pool.signal()
        assert pool.wait() == 0
    (document,) = world.collection("pools")
    assert document["processes"] == {}, "processes that stop well take their entries away"


def test_all_pools_are_paused_those_that_begin_later_too_and_a_misspelt_name_pauses_nobody(world: World) -> None:
    assert operate(world, "pause", "--all", "--reason", "upgrade").returncode == 0
    with world.pool(CIM_POOL="night") as pool:
        eventually(lambda: pool.says("paused by"), "paused")
        assert "cim-worker resume --all" in operate(world, "doctor").stdout
        unknown = operate(world, "pause", "--pool", "nihgt", "--reason", "typo")
        assert unknown.returncode == 5
        assert unknown.stderr.strip().endswith("there is no pool nihgt; known pools: *, night")
        assert operate(world, "resume", "--all").stdout == "all pools: resumed; 0 of 1 process paused\n"
        eventually(lambda: pool.ready()[0], "ready")
        nobody = operate(world, "pause", "--reason", "too early")
        assert nobody.stdout == "pool default: paused; no process is running\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("pause", "--reason", "  "), "--reason: 1 to 500 characters"),
        (("pause", "--reason", "x", "--all", "--pool", "y"), "--pool and --all: give one of them"),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    finished = cim_worker(*arguments)
    assert finished.returncode == 2
    assert problem in finished.stderr
