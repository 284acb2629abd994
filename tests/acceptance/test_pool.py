"""One HTTP port for a whole pool: from the first second, through restarts, and whatever its clients do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Broker, Store


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def activity(message_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


def test_the_port_answers_for_all_processes_from_the_first_second_and_through_the_end_of_one(world: World) -> None:
    with world.pool("--processes", "2", poison="p0ison") as pool:
        eventually(lambda: pool.ask("/livez")[0] == 200, "an answer")
        eventually(lambda: pool.ready() == (True, []), "ready")
        assert pool.metrics()['cim_processes{state="running"}'] == 2
        world.publish(*(activity(f"m-{number}") for number in range(40)))
        eventually(lambda: pool.metrics()["cim_received_total"] == 40)
        before = pool.metrics()

        victims = pool.workers()
        os.kill(victims[0], signal.SIGKILL)
        (line,) = pool.wait_for("worker_process_died")
        assert (line["process"], line["child_pid"], line["exit_code"]) == (0, victims[0], -signal.SIGKILL)
        eventually(lambda: set(pool.workers()) - set(victims), "another one")
        eventually(lambda: pool.ready()[0], "ready again")
        after = pool.metrics()
        assert {name for name in before if name.endswith("_total") and after[name] < before[name]} == set()
        assert after["cim_received_total"] == 40
        assert after['cim_process_restarts_total{why="died"}'] == 1

        pool.signal()
        assert pool.wait() == 0


SEEN = (
    'cim_age_seconds_count{outcome="published"}',
    'cim_age_seconds_count{outcome="stored"}',
    'cim_batch_size_count{lane="ingress"}',
    'cim_stage_seconds_count{stage="read"}',
    'cim_stage_seconds_count{stage="lookup"}',
    'cim_stage_seconds_count{stage="store"}',
    'cim_confirm_seconds_count{published="events"}',
    'cim_confirm_seconds_count{published="copies"}',
    'cim_confirm_seconds_count{published="journal"}',
    'cim_published_total{published="events",result="confirmed"}',
    "cim_prefetch",
    'cim_process_resident_memory_bytes{process="supervisor"}',
    'cim_queue_consumers{queue="cim.ingress"}',
)
"""What is above zero once messages of each kind have come through, each as soon as somebody has looked."""
UNACKNOWLEDGED = 'cim_queue_messages{queue="cim.ingress",state="unacknowledged"}'
"""Which only the management API tells."""


def test_the_metrics_show_stages_ages_confirms_and_queues(world: World, broker: Broker) -> None:
    with world.pool(
        poison="p0ison",
        LOOK_SECONDS="0.5",
        CIM_RECORD_DEAD_LETTERS="true",
        CIM_RECORD_INTERVAL_MS="100",
        CIM_RABBITMQ_MANAGEMENT_URL=broker.management.url,
    ) as pool:
        pool.wait_for("consuming")
        desk = world.open("c-1")
        live = json.loads(activity("live"))
        live["header"]["conversationId"] = "c-1"
        world.publish(json.dumps(live).encode(), activity("alone"), b"{")
        eventually(lambda: world.received(desk))
        eventually(lambda: world.collection("dead_letters"))

        def unseen() -> list[str]:
            found = pool.metrics()
            return [name for name in SEEN if not found.get(name)] + [UNACKNOWLEDGED] * (UNACKNOWLEDGED not in found)

        eventually(lambda: not unseen(), "all of them")
        found = pool.metrics_now()
        assert found['cim_outcomes_total{body_type="PLAIN",code="",outcome="published",reason=""}'] == 1
        assert found['cim_queue_messages{queue="cim.ingress.retry.1s",state="ready"}'] == 0
        assert {found["cim_unacknowledged"], found["cim_oldest_unacknowledged_seconds"]} == {0}
        assert found['cim_reconnects_total{dependency="broker"}'] == 0


def test_a_process_that_says_nothing_is_replaced_and_reported(world: World) -> None:
    with world.pool(poison="p0ison", SILENT_SECONDS="6") as pool:
        eventually(lambda: pool.ready()[0], "ready")
        (stopped,) = pool.workers()
        os.kill(stopped, signal.SIGSTOP)
        (line,) = pool.wait_for("worker_process_silent")
        assert (line["process"], line["child_pid"]) == (0, stopped)
        eventually(lambda: json.loads(pool.ask("/livez")[1])["replaced"] == 1, "live says so")
        eventually(lambda: pool.ready()[0], "ready again")
        assert pool.workers() != [stopped]
        assert pool.metrics()['cim_process_restarts_total{why="silent"}'] == 1


def test_a_process_that_does_not_stop_is_ended_after_its_time_and_that_is_said(world: World) -> None:
    with world.pool(CIM_DRAIN_GRACE_MS="0") as pool:
        eventually(lambda: pool.ready()[0], "ready")
        (stopped,) = pool.workers()
        os.kill(stopped, signal.SIGSTOP)
        pool.signal()
        assert pool.wait() == 1
        (line,) = pool.lines("worker_process_stuck")
        assert (line["process"], line["child_pid"]) == (0, stopped)


@contextlib.contextmanager
def hanging(port: int, count: int) -> Iterator[None]:
    """Hold *count* connections that have asked for half of something."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        yield


def test_hanging_and_half_open_scrapes_and_a_wrong_probe_are_a_line_each_and_the_work_goes_on(world: World) -> None:
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        with hanging(pool.http_port, 200):
            world.publish(*(activity(f"m-{number}") for number in range(200)))
            eventually(lambda: len(world.stored_ids()) == 200, "stored", 10)
        eventually(lambda: pool.ask("/livez")[0] == 200, "live", 15)
        for _ in range(5):
            assert pool.ask("/health/ready")[0] == 404
        (line,) = pool.wait_for("http_path_unknown")
        assert (line["path"], line["fix"]) == ("/health/ready", "there are /livez, /readyz, /metrics")
        assert len(pool.wait_for("http_clients_cut_off")) == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_was_asked_for_and_is_taken_is_one_sentence_and_ends_with_2(processes: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        finished = cim_worker("run", CIM_HTTP_PORT=port, CIM_PROCESSES=processes)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(
        f"cim-worker: CIM_HTTP_PORT: port {port} of 127.0.0.1 cannot be opened: Address already in use"
    )


@pytest.mark.parametrize(
    ("variable", "value"), [("CIM_HTTP_PORT", "65536"), ("CIM_HTTP_PORT", "x"), ("CIM_HTTP_HOST", "no such host")]
)
def test_a_port_that_cannot_be_is_named_and_ends_with_2(variable: str, value: str) -> None:
    finished = cim_worker("run", **{variable: value})
    assert finished.returncode == 2
    assert variable in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_setting_of_an_earlier_version_is_one_sentence_with_the_new_name() -> None:
    finished = cim_worker("run", CIM_HEALTH_PORT="9400")
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("cim-worker: CIM_HEALTH_PORT: is CIM_HTTP_PORT")


def test_the_default_port_that_is_taken_is_one_warning_and_the_work_goes_on(world: World) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            stack.enter_context(socket.create_server(("127.0.0.1", 9464)))
        with world.pool(CIM_HTTP_PORT="") as pool:
            pool.wait_for("consuming")
            (line,) = pool.lines("http_port_unavailable")
            assert "9464" in line["reason"]
            assert line["fix"] == "set CIM_HTTP_PORT"
            pool.signal()
            assert pool.wait() == 0


def test_the_supervisor_loads_neither_the_message_models_nor_a_driver() -> None:
    code = "import sys, worker.process.supervisor, worker.web.health; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = ("pymongo", "bson", "pika", "worker.cim", "worker.mongo", "worker.rabbit", "worker.pipeline")
    assert [name for name in loaded if name.startswith(heavy)] == []
