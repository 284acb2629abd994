"""`cim-worker run` itself: real process, real signals, real broker, real store."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.services.store import embedded_store
from tests.support.amqp import plain
from tests.support.command import COMMAND, cim_worker, environment
from tests.support.eventually import eventually
from tests.support.from_schema import schema_of
from tests.support.identity import event_id_of
from tests.support.worker_pool import OUTPUTS, Pool, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services.broker import LocalBroker
    from tests.services.services import Broker, Store

PASSWORD = "sesame-4f9e255dc09c41f68b14ccbddb4c46e4"  # found nowhere else
MIB = 1024 * 1024


def message(message_id: str, text: str = "hello", *, sender: str = "app-1", **header: Any) -> bytes:
    return json.dumps(
        {
            "id": message_id,
            "header": {"sender": {"id": sender, "type": "APP", "senderName": "App"}, **header},
            "body": {"type": "PLAIN", "markdownText": text},
        }
    ).encode()


def customers(message_id: str, text: str = "hello") -> bytes:
    return message(message_id, text, customer={"_id": "customer-1"})


def ids(bodies: list[tuple[Any, Any, bytes]]) -> set[str]:
    """Return the message ids of events."""
    return {schema_of("event").checked(json.loads(body))["data"]["id"] for *_, body in bodies}


def expected(*message_ids: str) -> set[str]:
    return set(message_ids)


def with_user(broker: Broker, url: str) -> str:
    """Return the URL for a user with a password that is found nowhere else."""
    name = f"worker-{uuid.uuid4().hex[:8]}"
    broker.management.create_user(name, PASSWORD)
    broker.management.set_permissions(name, urlsplit(url).path[1:])
    return url.replace("guest:guest@", f"{name}:{PASSWORD}@")


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, broker: Broker, tmp_path: Path) -> World:
    made = World(with_user(broker, vhost_url), store.uri, database, tmp_path)
    made.apply_topology()
    return made


@pytest.fixture(scope="module")
def shared(broker: Broker, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Pool]]:
    """One pool for all tests that do it no harm; each uses conversations and ids of its own."""
    vhost = f"run-{uuid.uuid4().hex}"
    url = with_user(broker, broker.create_vhost(vhost))
    made = World(url, store.uri, f"run_{uuid.uuid4().hex}", tmp_path_factory.mktemp("run"))
    made.apply_topology()
    with made.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready")
        yield made, pool
    broker.delete_vhost(vhost)


# -- outcomes ---------------------------------------------------------------------------------------------------------


def test_a_live_conversations_event_reaches_its_subscribers(shared: tuple[World, Pool]) -> None:
    world, _ = shared
    desk = world.open("live", roomInfo={"id": "room-1"})
    sent = message("live-1", conversationId="live")
    world.publish(sent, correlation_id="c-1", headers={"traceparent": "00-trace"})
    ((method, properties, body),) = eventually(lambda: world.received(desk))
    event = schema_of("event").checked(json.loads(body))
    assert (event["name"], event["type"]) == ("THIRD_PARTY_ACTIVITY", "ACTIVITY")
    assert event["id"] == properties.message_id == event_id_of(sent)
    assert (event["data"]["id"], event["roomInfo"]) == ("live-1", {"id": "room-1"})
    assert (method.routing_key, properties.correlation_id, properties.delivery_mode) == ("live", "c-1", 2)
    assert properties.headers["traceparent"] == "00-trace"
    assert world.stored("live-1") is None


def test_what_has_no_live_conversation_is_stored_once(shared: tuple[World, Pool]) -> None:
    world, pool = shared
    world.tell("ended", "CLOSED", 1_760_000_000_000)
    world.publish(customers("s-1"), exchange="cim.ingress", key="customer-1")
    world.publish(message("s-2", conversationId="ended"), message("s-3", conversationId="never heard of"))
    eventually(lambda: expected("s-1", "s-2", "s-3") <= world.stored_ids())
    document = world.stored("s-3")
    assert document is not None
    assert document["conversationId"] == "never heard of"
    duplicates = 'cim_outcomes_total{body_type="PLAIN",code="",outcome="duplicate",reason="stand_alone"}'
    before = pool.metrics_now().get(duplicates, 0)
    world.publish(customers("s-1"))
    eventually(lambda: pool.metrics().get(duplicates, 0) == before + 1)


def test_a_conversation_nobody_listens_to_is_stored(shared: tuple[World, Pool]) -> None:
    world, _ = shared
    desk = world.open("unheard")
    with plain(world.amqp_url) as channel:
        channel.queue_delete(desk)
    world.publish(message("u-1", conversationId="unheard"))
    eventually(lambda: world.stored("u-1"))


def test_the_same_message_written_another_way_is_one_activity_and_other_content_another(
    shared: tuple[World, Pool],
) -> None:
    world, _ = shared
    first, second = customers("c-1", "café"), customers("c-1", "thé")
    reordered = json.dumps(dict(reversed(json.loads(first).items())), indent=1, ensure_ascii=False).encode()
    world.publish(first, reordered, second, first)
    wanted = {event_id_of(first), event_id_of(second)}

    def stored() -> list[str]:
        return [str(one["_id"]) for one in world.collection("ConversationActivities") if one["messageId"] == "c-1"]

    eventually(lambda: wanted <= set(stored()))
    world.publish(customers("c-2"))
    eventually(lambda: world.stored("c-2"))
    assert sorted(stored()) == sorted(wanted)


def test_a_packed_message_is_stored_like_any_other_and_its_letter_keeps_the_bytes(shared: tuple[World, Pool]) -> None:
    world, _ = shared
    plain_body = customers("packed")
    world.publish(gzip.compress(plain_body), content_encoding="gzip")
    document = eventually(lambda: world.stored("packed"))
    assert document is not None
    assert str(document["_id"]) == event_id_of(plain_body)
    bomb = gzip.compress(bytes(64 * MIB))
    world.publish(bomb, content_encoding="gzip", message_id="bomb")
    properties, body = world.letter("bomb")
    assert (properties.headers["cim-code"], properties.content_encoding) == ("message_too_large", "gzip")
    assert body == bomb


def test_a_rebuilt_message_is_known_by_its_idempotency_key(shared: tuple[World, Pool]) -> None:
    world, pool = shared
    duplicates = 'cim_outcomes_total{body_type="PLAIN",code="",outcome="duplicate",reason="stand_alone"}'
    before = pool.metrics_now().get(duplicates, 0)
    world.publish(customers("k-1", "first"), headers={"cim-idempotency-key": "key-1"})
    eventually(lambda: world.stored("k-1"))
    world.publish(customers("k-2", "rebuilt"), headers={"cim-idempotency-key": "key-1"})
    eventually(lambda: pool.metrics().get(duplicates, 0) == before + 1)
    assert world.stored("k-2") is None


def test_an_invalid_message_is_dead_with_code_pointer_trace_and_its_bytes(shared: tuple[World, Pool]) -> None:
    world, _ = shared
    body = message("bad", conversationId=7)
    world.publish(body, message_id="invalid", headers={"traceparent": "00-dead"}, expiration="60000", reply_to="x")
    properties, found = world.letter("invalid")
    assert found == body
    assert (properties.headers["cim-code"], properties.headers["cim-pointer"]) == (
        "wrong_type",
        "/header/conversationId",
    )
    assert properties.headers["traceparent"] == "00-dead"
    assert properties.headers["cim-sender-id"] == "app-1"
    assert properties.headers["cim-origin-queue"] == "cim.ingress"
    assert (properties.expiration, properties.reply_to) == (None, None)


def test_a_megabyte_is_accepted_and_one_byte_more_is_not(shared: tuple[World, Pool]) -> None:
    world, _ = shared
    room = MIB - len(customers("big", ""))
    fits = customers("big", "x" * room)
    assert len(fits) == MIB
    too_large = customers("huge", "x" * room)
    assert len(too_large) == MIB + 1
    world.publish(fits)
    world.publish(too_large, message_id="too large")
    properties, body = world.letter("too large")
    assert properties.headers["cim-code"] == "message_too_large"
    assert body == too_large
    eventually(lambda: world.stored("big"))


def test_a_header_timestamp_in_milliseconds_is_nothing_special(shared: tuple[World, Pool]) -> None:
    """It kills every consumer that decodes headers with pika 1.4.4 and older."""
    world, pool = shared
    sessions = len(pool.lines("consuming"))
    send_with_millisecond_header(world, customers("ms"))
    eventually(lambda: world.stored("ms"))
    assert len(pool.lines("consuming")) == sessions


def send_with_millisecond_header(world: World, body: bytes) -> None:
    """Publish with a header of AMQP type `T`, which pika itself can only write in seconds."""
    with plain(world.amqp_url) as channel:
        encode = pika.BasicProperties.encode

        class Milliseconds(pika.BasicProperties):  # type: ignore[misc]
            def encode(self) -> list[bytes]:
                table = b"\x02atT" + (1_760_000_000_123_000).to_bytes(8, "big")
                plain_pieces = b"".join(encode(pika.BasicProperties(delivery_mode=2)))[2:]
                return [(0x2000 | 0x1000).to_bytes(2, "big"), len(table).to_bytes(4, "big"), table, plain_pieces]

        channel.basic_publish("", "cim.ingress", body, Milliseconds(delivery_mode=2))


def test_the_counters_add_up_and_the_log_names_no_content(shared: tuple[World, Pool]) -> None:
    world, pool = shared
    world.publish(*(customers(f"sum-{number}", "not-for-the-log") for number in range(50)), b"not-for-the-log")
    eventually(lambda: expected(*(f"sum-{number}" for number in range(50))) <= world.stored_ids())
    eventually(lambda: pool.metrics_now()["cim_in_flight"] == 0)
    metrics = pool.metrics()
    ended = sum(value for name, value in metrics.items() if name.startswith("cim_outcomes_total"))
    assert metrics["cim_received_total"] == ended
    assert pool.ready() == (True, [])
    assert "not-for-the-log" not in pool.text
    assert not pool.lines("batch"), "a line for each batch only at debug"
    work = pool.wait_for("work")
    assert work[0]["received"] > 0
    stored = [one.get("stored", 0) for one in work]
    assert any(stored)
    assert [sum(one.get("stored_because", {}).values()) for one in work] == stored, "each for a reason"
    assert pool.lines("dead_letter")[-1]["code"] == "malformed_json"


# -- a conversation changes under way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["subscriber", "exchange"])
def test_every_message_is_at_a_subscriber_or_in_the_store_when_its_conversation_loses(
    loss: str, shared: tuple[World, Pool]
) -> None:
    world, _ = shared
    name = f"loses its {loss}"
    desk = world.open(name)
    numbers = [f"{loss}-{number}" for number in range(1500)]

    def lose() -> None:
        eventually(lambda: world.depth(desk) > 50)
        with plain(world.amqp_url) as channel:
            if loss == "subscriber":
                channel.queue_unbind(desk, f"conversation.{name}")
            else:
                channel.exchange_delete(f"conversation.{name}")

    losing = threading.Thread(target=lose)
    losing.start()
    world.publish(*(message(one, conversationId=name) for one in numbers))
    losing.join()
    world.publish(message(f"{loss}-last", conversationId=name))
    at_desk: set[str] = set()

    def all_there() -> bool:
        at_desk.update(ids(world.received(desk)))
        return expected(*numbers) <= at_desk | world.stored_ids()

    eventually(all_there)
    assert at_desk & expected(*numbers), "some were live"
    eventually(lambda: world.stored(f"{loss}-last"))


# -- ends -------------------------------------------------------------------------------------------------------------


def assert_nothing_lost(world: World, numbers: list[str]) -> None:
    """Every message is stored or still in the queue."""
    left = {json.loads(body)["id"] for *_, body in world.received("cim.ingress")}
    assert expected(*numbers) == world.stored_ids() | expected(*left)


def test_sigterm_drains(world: World) -> None:
    numbers = [str(number) for number in range(3000)]
    world.publish(*map(customers, numbers))
    with world.pool(CIM_BATCH_SIZE="20", CIM_PREFETCH="100", CIM_LOG_LEVEL="debug") as pool:
        eventually(world.stored_ids)
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
        (drained,) = pool.lines("drained")
        (stopped,) = pool.lines("worker_stopped")
        outcomes = ("published", "stored", "duplicate", "waiting", "retry", "dead", "handed_back")
        assert stopped["received"] == sum(stopped[one] for one in outcomes)
        assert stopped["handed_back"] == drained["handed_back"] == 0
        assert 0 < stopped["stored"] < 3000
        assert stopped["stored"] == len(world.stored_ids())
        assert_each_batch_has_its_line(pool.lines("batch"), stopped)
    assert_nothing_lost(world, numbers)


def assert_each_batch_has_its_line(batches: list[dict[str, Any]], stopped: dict[str, Any]) -> None:
    """All were stored as messages without a conversation: nothing went to the hub, nothing was looked up."""
    assert [line["batch"] for line in batches] == list(range(1, len(batches) + 1))
    assert all(0 <= line["duration_ms"] < 60_000 for line in batches)
    read = [line for line in batches if line["lane"] == "ingress"]
    written = [line for line in batches if line["lane"] == "store"]
    assert len(read) + len(written) == len(batches)
    assert all(0 < line["size"] <= 20 and line["store"] == line["size"] for line in read)
    assert all(line["stored"] == line["size"] for line in written)
    assert sum(line["size"] for line in read) == stopped["received"]
    assert sum(line["size"] for line in written) == stopped["stored"]
    assert not any(line.keys() & {"hub", "lookup", "duplicate"} for line in batches), "counts that are 0 are left out"


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Listen on a port, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_stop_in_an_outage_leaves_everything_that_needs_the_store_in_the_waiting_room(world: World) -> None:
    world.publish(*(customers(str(number)) for number in range(30)))
    nowhere = f"mongodb://127.0.0.1:{unused_port()}/"
    with world.pool(CIM_MONGODB_URI=nowhere) as pool:
        pool.wait_for("dependency_down")
        eventually(lambda: world.depth("cim.ingress.waiting") >= 22)
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
        assert pool.lines("drained")[0]["handed_back"] == 0
        assert pool.lines("worker_stopped")[0]["waiting"] >= 30
    eventually(lambda: world.depth("cim.ingress.waiting") == 30)
    with world.pool():
        eventually(lambda: len(world.stored_ids()) == 30, "all stored when the store is there")


def test_a_drain_that_cannot_finish_hands_back_within_its_grace(world: World) -> None:
    world.publish(*(customers(str(number)) for number in range(10)))
    with (
        silent_server() as port,
        world.pool(
            CIM_MONGODB_URI=f"mongodb://127.0.0.1:{port}/", CIM_DRAIN_GRACE_MS="500", CIM_MONGODB_TIMEOUT_MS="60000"
        ) as pool,
    ):
        pool.wait_for("consuming")
        eventually(lambda: pool.metrics().get("cim_in_flight") == 10)
        started = time.monotonic()
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0
        assert time.monotonic() - started < 10
        assert pool.lines("drained")[0]["handed_back"] == 10
        assert pool.lines("worker_stopped")[0]["handed_back"] == 10
    assert world.depth("cim.ingress") == 10


def test_a_second_signal_ends_at_once(world: World) -> None:
    world.publish(customers("1"))
    nowhere = f"mongodb://127.0.0.1:{unused_port()}/"
    with world.pool(CIM_MONGODB_URI=nowhere, CIM_DRAIN_GRACE_MS="60000") as pool:
        pool.wait_for("consuming")
        eventually(lambda: pool.metrics().get("cim_in_flight") == 1)
        pool.signal(signal.SIGTERM)
        eventually(lambda: pool.says("stopping"))
        assert pool.metrics()["cim_draining_seconds"] > 0
        pool.signal(signal.SIGTERM)
        assert pool.wait(5) == -signal.SIGTERM
    eventually(lambda: world.depth("cim.ingress") == 1)


def test_sighup_drains(world: World) -> None:
    with world.pool() as pool:
        pool.wait_for("consuming")
        pool.signal(signal.SIGHUP)
        assert pool.wait() == 0
        assert pool.lines("drained")


def test_sigterm_is_heard_while_the_start_waits_for_a_blocked_broker(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(breakable_broker.create_vhost(f"alarm-{uuid.uuid4().hex}"), store.uri, database, tmp_path)
    world.apply_topology()
    breakable_broker.set_memory_alarm(True)
    try:
        with world.pool() as pool:
            eventually(lambda: pool.says("broker blocks publishers"))
            assert not pool.lines("consuming")
            started = time.monotonic()
            pool.signal(signal.SIGTERM)
            assert pool.wait(10) == 0
            assert time.monotonic() - started < 4
    finally:
        breakable_broker.set_memory_alarm(False)


@contextlib.contextmanager
def process_1(world: World, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `cim-worker run` as process 1 of a namespace, as a container does; yield its parent and its id."""
    settings = {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_RETRY_DELAYS": "1s",
        **variables,
    }
    command = ["unshare", "--pid", "--fork", "--kill-child", COMMAND, "run"]
    with (world.folder / "process-1.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment(**settings), stderr=output)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            yield process, int(eventually(children.read_text).split()[0])
        finally:
            process.kill()
            process.wait()


def answer(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return connection.makefile("rb").read()


def hears_sigterm(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert caught
    return bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


def test_as_process_1_a_signal_is_heard_before_anything_heavy_is_loaded(world: World) -> None:
    with process_1(world) as (parent, pid):
        maps = Path(f"/proc/{pid}/maps")
        eventually(lambda: hears_sigterm(pid) or "pydantic_core" in maps.read_text())
        assert hears_sigterm(pid)
        os.kill(pid, signal.SIGTERM)
        assert parent.wait(20) == 0
    assert "consuming" not in (world.folder / "process-1.log").read_text()


def test_as_process_1_a_second_signal_ends_at_once(world: World) -> None:
    world.publish(customers("1"))
    nowhere = f"mongodb://127.0.0.1:{unused_port()}/"
    port = unused_port()
    with process_1(world, CIM_MONGODB_URI=nowhere, CIM_DRAIN_GRACE_MS="60000", CIM_HTTP_PORT=str(port)) as (
        parent,
        pid,
    ):
        log = world.folder / "process-1.log"
        eventually(lambda: "consuming" in log.read_text())
        eventually(lambda: b"cim_in_flight 1.0" in answer(port, "/metrics"))
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: b"stopping" in answer(port, "/readyz"))
        os.kill(pid, signal.SIGTERM)
        assert parent.wait(5) == 128 + signal.SIGTERM


def test_kill_9_loses_nothing(world: World) -> None:
    numbers = [str(number) for number in range(2000)]
    world.publish(*map(customers, numbers))
    with world.pool(CIM_BATCH_SIZE="20", CIM_PREFETCH="100") as pool:
        eventually(world.stored_ids)
        pool.signal(signal.SIGKILL)
        assert pool.wait() == -signal.SIGKILL
    assert len(world.stored_ids()) < 2000
    with world.pool() as pool:
        eventually(lambda: world.stored_ids() == expected(*numbers))
        eventually(lambda: pool.metrics_now()["cim_in_flight"] == 0)
    assert world.depth("cim.ingress") == 0
    assert world.depth("cim.dead-letters") == 0


# -- several processes ------------------------------------------------------------------------------------------------


def test_a_killed_process_is_restarted_and_all_end_with_their_supervisor(world: World) -> None:
    with world.pool("--processes", "2") as pool:
        workers = {line["pid"] for line in pool.wait_for("consuming", 2)}
        assert len(workers) == 2
        victim = workers.pop()
        os.kill(victim, signal.SIGKILL)
        assert pool.wait_for("worker_process_died")[0]["child_pid"] == victim
        pool.wait_for("consuming", 3)
        world.publish(customers("after"))
        eventually(lambda: world.stored("after"))
        pool.signal(signal.SIGKILL)
        eventually(lambda: not pool.pids(), "no process left behind", 15)
        assert len(pool.lines("worker_stopped")) == 2


def test_a_process_that_cannot_be_started_is_tried_again_for_as_long_as_it_takes(world: World) -> None:
    with world.pool("--processes", "2") as pool:
        pids = {line["pid"] for line in pool.wait_for("consuming", 2)}
        supervisor = pool.process.pid
        limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (4, limits[1]))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        failed = pool.wait_for("worker_process_not_started", 2)
        assert {line["process"] for line in failed} == {0, 1}
        assert all("open files" in line["reason"] for line in failed)
        time.sleep(3)  # several attempts more
        assert len(pool.lines("worker_process_not_started")) == 2, "reported once each"
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
        pool.wait_for("consuming", 4)
        pool.signal(signal.SIGTERM)
        assert pool.wait() == 0


def test_a_pool_drains_as_one(world: World) -> None:
    with world.pool("--processes", "2") as pool:
        pool.wait_for("consuming", 2)
        pool.signal(signal.SIGINT)
        assert pool.wait() == 0
        assert len(pool.lines("drained")) == 2
        eventually(lambda: not pool.pids(), "no process left behind")


def test_a_message_that_kills_its_reader_ends_in_dead_letters_alone(
    vhost_url: str, store: Store, database: str, broker: Broker, tmp_path: Path
) -> None:
    # Before the window is down to one message, a death takes along what was handed out with it: up to four times.
    world = World(with_user(broker, vhost_url), store.uri, database, tmp_path, delivery_limit=6)
    world.apply_topology()
    numbers = [str(number) for number in range(60)]
    world.publish(*map(customers, numbers[:30]))
    world.publish(customers("poison", "kills its reader"), message_id="poison")
    world.publish(*map(customers, numbers[30:]))
    recording = {"CIM_RECORD_DEAD_LETTERS": "true", "CIM_RECORD_INTERVAL_MS": "200"}
    with world.pool("--processes", "2", poison="kills its reader", **recording):
        eventually(lambda: world.stored_ids() == expected(*numbers), "all the innocent ones", 120)
        (letter,) = eventually(lambda: world.collection("dead_letters"), "the letter", 60)
    assert (letter["code"], letter["messageId"], letter["originQueue"]) == ("delivery_limit", "poison", "cim.ingress")
    assert letter["body"] == customers("poison", "kills its reader")


# -- outages ----------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named_and_waited_for_and_a_restart_survived(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    vhost = f"outage-{uuid.uuid4().hex}"
    url = with_user(breakable_broker, breakable_broker.create_vhost(vhost))
    world = World(url, store.uri, database, tmp_path)
    world.apply_topology()
    world.publish(customers("before the start"))
    breakable_broker.stop()
    with world.pool() as pool:
        (line,) = pool.wait_for("dependency_down")
        assert f"127.0.0.1:{breakable_broker.amqp_port}" in json.dumps(line)
        assert (line["dependency"], line["code"]) == ("broker", "broker_unavailable")
        assert "refused" in line["reason"]
        eventually(lambda: pool.says("broker unavailable since "))
        breakable_broker.start()
        eventually(lambda: world.stored("before the start"), seconds=20)
        world.tell("live", "ACTIVE", 1_760_000_000_000)
        desk = world.subscribe("live")
        numbers = [str(number) for number in range(400)]
        world.publish(*(message(one, conversationId="live") for one in numbers[:100]))
        pool.wait_for("dependency_up")  # an event is confirmed; before that an open session proves nothing
        world.publish(*(message(one, conversationId="live") for one in numbers[100:200]))
        breakable_broker.restart()
        world.publish(*(message(one, conversationId="live") for one in numbers[200:]))
        found: set[str] = set()

        def all_there() -> bool:
            found.update(ids(world.received(desk)))
            return expected(*numbers) <= found | world.stored_ids()

        eventually(all_there, seconds=40)

        def lines(event: str, dependency: str = "broker") -> list[Any]:
            return [line for line in pool.lines(event) if line["dependency"] == dependency]

        eventually(lambda: len(lines("dependency_up")) >= 2)
        eventually(lambda: pool.ready()[0])
        assert world.depth("cim.dead-letters") == 0
        down, up = lines("dependency_down"), lines("dependency_up")
        assert len(down) == len(up) == 2, "the restart is one outage: connections lost, then refused"
        of_the_journal = len(lines("dependency_down", "journal"))
        assert of_the_journal <= 1, "its stream may take longer than the queues to come back"
        assert "Error" not in down[1]["reason"], "words, no class names"
        outages = sum(count for name, count in pool.metrics_now().items() if name.startswith("cim_outages_total"))
        assert outages == 2 + of_the_journal
    breakable_broker.delete_vhost(vhost)


def test_a_store_that_goes_and_comes_back_costs_no_attempt_and_live_traffic_goes_on(
    vhost_url: str, database: str, broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    store = embedded_store(tmp_path / "store")
    store.start()
    try:
        world = World(with_user(broker, vhost_url), store.uri, database, tmp_path)
        world.apply_topology()
        with world.pool(CIM_MONGODB_TIMEOUT_MS="1000") as pool:
            eventually(lambda: pool.ready()[0])
            desk = world.open("live")
            store.kill()
            numbers = [str(number) for number in range(100)]
            world.publish(*map(customers, numbers), message("live-1", conversationId="live"))
            eventually(lambda: ids(world.received(desk)) == expected("live-1"))
            (down,) = pool.wait_for("dependency_down")
            assert down["code"] == "store_unavailable"
            eventually(lambda: pool.says("store unavailable since "))
            assert world.depth("cim.dead-letters") == 0
            store.start()
            eventually(lambda: world.stored_ids() == expected(*numbers), seconds=20)
            eventually(lambda: pool.ready()[0])
            pool.wait_for("dependency_up")
            assert world.depth("cim.dead-letters") == 0
            assert {line["attempt"] for line in pool.lines("retry")} <= {1}
    finally:
        store.stop()


def test_a_deleted_hub_is_told_and_worked_again_once_it_is_back(world: World) -> None:
    with world.pool() as pool:
        pool.wait_for("consuming")
        with plain(world.amqp_url) as channel:
            channel.exchange_delete("cim.conversations")
        world.publish(message("1", conversationId="c"))
        down = eventually(lambda: [one for one in pool.lines("dependency_down") if "topology apply" in one["reason"]])
        assert down[0]["code"] == "topology_mismatch"
        assert "cim.conversations" in down[0]["reason"]
        eventually(lambda: not pool.ready()[0])
        world.apply_topology()
        eventually(lambda: world.stored("1"))


# -- nobody reads the log ---------------------------------------------------------------------------------------------


def all_stored(world: World, count: int) -> bool:
    return len(world.stored_ids()) == count


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_job_goes_on_when_nobody_reads_the_log_or_standard_error_is_closed(world: World, processes: str) -> None:
    port = unused_port()
    settings = {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_RETRY_DELAYS": "1s",
        "CIM_LOG_FORMAT": "json",
        "CIM_BATCH_SIZE": "1",
        "CIM_LOG_LEVEL": "debug",
        "CIM_HTTP_PORT": str(port),
        "CIM_PROCESSES": processes,
    }
    with subprocess.Popen([COMMAND, "run"], env=environment(**settings), stderr=subprocess.PIPE) as process:
        try:
            for part in range(4):  # a line for each message, and a pipe that holds some hundred
                world.publish(*(customers(f"{part}-{number}") for number in range(500)))
                eventually(partial(all_stored, world, 500 * (part + 1)), "stored", 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    closed = ["sh", "-c", f"exec {COMMAND} run 2>&-"]
    with subprocess.Popen(closed, env=environment(**settings)) as process:
        try:
            world.publish(customers("closed"))
            eventually(lambda: expected("closed") <= world.stored_ids())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CIM_RABBITMQ_URL", f"http://worker:{PASSWORD}@host/"),
        ("CIM_PREFETCH", "many"),
        ("CIM_RETRY_DELAYS", "10s,1s"),
        ("CIM_SENDER_USERS", "nonsense"),
        ("CIM_MONGODB_URI", "mongodb://127.0.0.1:1/?tls=maybe"),
        ("CIM_MONGODB_URI", "mongodb://127.0.0.1:1/?replicaSet=a&directConnection=true&loadBalanced=true"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_with_2(variable: str, value: str) -> None:
    finished = cim_worker("run", **{variable: value})
    assert finished.returncode == 2
    assert variable in finished.stdout + finished.stderr
    assert PASSWORD not in finished.stdout + finished.stderr


def test_refused_credentials_are_told_without_them(world: World) -> None:
    wrong = world.amqp_url.replace(PASSWORD, PASSWORD[::-1])
    with world.pool(CIM_RABBITMQ_URL=wrong) as pool:
        (line,) = pool.wait_for("dependency_down")
        assert line["code"] == "broker_access_refused"
        assert PASSWORD[::-1] not in pool.text
        pool.signal(signal.SIGTERM)
        assert pool.wait(5) == 0


def test_a_sender_belongs_to_its_broker_user(world: World) -> None:
    user = str(urlsplit(world.amqp_url).username)
    with world.pool(CIM_SENDER_USERS=f"{user}=app-1,other=app-2") as pool:
        pool.wait_for("consuming")
        desk = world.open("live")
        world.publish(message("mine", conversationId="live"), user_id=user)
        world.publish(message("not mine", sender="app-2", conversationId="live"), user_id=user, message_id="forged")
        world.publish(message("nobody's", conversationId="live"), message_id="anonymous")
        found: dict[str, str] = {}

        def both() -> bool:
            for _, properties, _ in world.received("cim.dead-letters"):
                found[properties.message_id] = properties.headers["cim-code"]
            return len(found) == 2

        eventually(both)
        assert found == {"forged": "sender_not_allowed", "anonymous": "sender_not_allowed"}
        ((_, properties, body),) = eventually(lambda: world.received(desk))
        assert json.loads(body)["data"]["id"] == "mine"
        assert properties.headers["cim-user-id"] == user


# -- last, because it looks at everything before it -------------------------------------------------------------------


def test_no_output_of_any_of_these_runs_holds_a_password() -> None:
    contains: Callable[[Path], bool] = lambda path: PASSWORD in path.read_text()  # noqa: E731 - reads well below
    assert OUTPUTS, "run this test together with the others of its file"
    assert not [path for path in OUTPUTS if contains(path)]
