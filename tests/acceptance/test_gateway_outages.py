"""What the gateway does when the broker, its clients or an operator make it hard."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.test_gateway import WIDGET
from tests.support.amqp import depth, drained
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.gateway import ACTIVITIES, Gateway, Reply, gateway, virtual_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.broker import LocalBroker
    from tests.services.services import Broker

CONFIRM_MS = "1000"
HEAD = f"POST {ACTIVITIES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MIB = 1 << 20


@pytest.fixture
def amqp_url(breakable_broker: LocalBroker) -> Iterator[str]:
    name = f"gateway-{uuid.uuid4().hex}"
    url = breakable_broker.create_vhost(name)
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url).returncode == 0
    yield url
    breakable_broker.thaw()
    breakable_broker.start()
    breakable_broker.delete_vhost(name)


def numbered(number: int) -> dict[str, Any]:
    return {**WIDGET, "id": f"m-{number}"}


def refused(one: Gateway, says: str) -> Reply | None:
    """Return the answer when it is a 503 that says so; it came well under ten seconds."""
    began = time.monotonic()
    reply = one.post(WIDGET)
    assert time.monotonic() - began < 5
    if reply.status != 503 or says not in reply.document["message"]:
        return None
    assert int(reply.headers["retry-after"]) > 0
    return reply


def test_a_broker_that_blocks_is_silent_or_is_away_is_503_until_it_is_back(
    breakable_broker: LocalBroker, amqp_url: str, tmp_path: Path
) -> None:
    broker = breakable_broker
    with gateway(amqp_url, tmp_path, variables={"CIM_GATEWAY_CONFIRM_TIMEOUT_MS": CONFIRM_MS}) as one:

        def is_back() -> bool:
            return one.post(WIDGET).status == 200 and not one.reasons_not_ready()

        broker.set_memory_alarm(True)
        try:
            eventually(lambda: refused(one, "accepts no messages"), "blocked")
            assert one.request("GET", "/readyz").status == 503
        finally:
            broker.set_memory_alarm(False)
        eventually(is_back, "unblocked")
        broker.freeze()
        assert refused(one, "did not confirm in time") is not None
        broker.thaw()
        eventually(is_back, "thawed")
        broker.kill()
        eventually(lambda: refused(one, "cannot be reached"), "killed")
        assert one.request("GET", "/livez").status == 200
        broker.start()
        eventually(is_back, "started again", 60)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(20) == 0


def test_without_its_queues_it_says_what_to_do_and_takes_nothing(vhost_url: str, tmp_path: Path) -> None:
    with gateway(vhost_url, tmp_path, ready=False) as one:
        (down,) = eventually(lambda: one.lines("dependency_down"))
        assert "run `cim-worker topology apply`" in down["reason"]
        assert refused(one, "cannot be reached")
        assert one.reasons_not_ready()


def test_beyond_what_may_wait_for_the_broker_it_is_429_and_what_was_accepted_survives_a_stop(
    breakable_broker: LocalBroker, amqp_url: str, tmp_path: Path
) -> None:
    settings = {"CIM_GATEWAY_MAX_IN_FLIGHT": "5", "CIM_GATEWAY_CONFIRM_TIMEOUT_MS": "9000"}
    with gateway(amqp_url, tmp_path, variables=settings) as one, ThreadPoolExecutor(8) as threads:
        breakable_broker.freeze()
        sent = {number: threads.submit(one.post, numbered(number)) for number in range(6)}
        (busy,) = eventually(lambda: [number for number, reply in sent.items() if reply.done()])
        reply = sent.pop(busy).result()
        assert (reply.status, int(reply.headers["retry-after"])) == (429, 1)
        one.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(one.port), "no further connections")
        breakable_broker.thaw()
        assert [reply.result().status for reply in sent.values()] == [200] * 5
        assert one.process.wait(20) == 0
    arrived = {json.loads(body)["id"] for *_, body in drained(amqp_url, "cim.ingress")}
    assert arrived == {f"m-{number}" for number in sent}


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def connections(port: int, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Open *count* connections and send something on each."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), 10)
            client.settimeout(10)
            with contextlib.suppress(OSError):  # some are turned away
                client.sendall(sent)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.close()


def test_hundreds_of_half_open_clients_exhaust_neither_descriptors_nor_the_log(broker: Broker, tmp_path: Path) -> None:
    with virtual_host(broker) as url, gateway(url, tmp_path, most_descriptors=256) as one:
        with connections(one.port, 400, HEAD.encode()) as clients:
            descriptors = len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
            assert descriptors < 200
            assert clients[-1].recv(100).startswith(b"HTTP/1.1 503 ")
            # What the clients do not leave, their time leaves: there is room again while they are still there.
            eventually(lambda: answers_200(one), "room again", 20)
            assert not one.reasons_not_ready()
        assert len(one.log.read_text().splitlines()) < 10


def answers_200(one: Gateway) -> bool:
    with contextlib.suppress(OSError):
        return one.post(WIDGET).status == 200
    return False


def test_memory_stays_flat_under_a_thousand_slow_clients_and_a_full_queue_is_503(
    broker: Broker, tmp_path: Path
) -> None:
    half = HEAD.encode() + b"Content-Length: 200000\r\n\r\n" + b" " * 100_000
    with virtual_host(broker) as url, gateway(url, tmp_path) as one:
        assert one.post(numbered(0)).status == 200
        before = resident(one)
        with connections(one.port, 1000, half):
            assert [one.post(numbered(number)).status for number in range(20)] == [200] * 20
            held = resident(one)
        assert held - before < 100 * MIB
        with connections(one.port, 1000, HEAD.encode()):
            assert one.post(numbered(1)).status == 200
            assert resident(one) - before < 100 * MIB
        assert depth(url, "cim.ingress") == 22
        full = {"pattern": "^cim.ingress$", "definition": {"max-length": 1}, "apply-to": "queues"}
        broker.management.request("PUT", f"/policies/{url.rpartition('/')[2]}/full", full)
        eventually(lambda: refused(one, "queue for activities is full"))


def resident(one: Gateway) -> int:
    """Return the resident memory of a gateway, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{one.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
