"""The private RabbitMQ node: it works like a real one, can be broken on purpose, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest

from tests.services.broker import BrokerStartError, CertificateFiles, LocalBroker
from tests.services.management import ManagementError
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.services import Broker

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
def vhost(breakable_broker: LocalBroker) -> Iterator[str]:
    """Name of a virtual host in the breakable broker."""
    name = f"test-{uuid.uuid4().hex}"
    breakable_broker.create_vhost(name)
    yield name
    breakable_broker.thaw()
    breakable_broker.start()
    breakable_broker.delete_vhost(name)


def publish_durably(url: str, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments=QUORUM)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, mandatory=True)


def command_lines() -> dict[int, str]:
    """Return the command line of every process of this machine that is more than a zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return {pid: line for pid, line in found.items() if line}


def processes_naming(*words: str) -> list[str]:
    return [line for pid, line in command_lines().items() if pid != os.getpid() and any(word in line for word in words)]


def test_every_virtual_host_is_separate(broker: Broker) -> None:
    first, second = f"test-{uuid.uuid4().hex}", f"test-{uuid.uuid4().hex}"
    publish_durably(broker.create_vhost(first), "only-here", b"x")
    broker.create_vhost(second)

    assert broker.management.queues(first) == ["only-here"]
    assert broker.management.queues(second) == []

    broker.delete_vhost(first)
    broker.delete_vhost(second)
    with pytest.raises(ManagementError, match="404"):
        broker.management.queues(first)


def test_queue_depths_are_exact(breakable_broker: LocalBroker, vhost: str) -> None:
    url = breakable_broker.vhost_url(vhost)
    for _ in range(3):
        publish_durably(url, "deep", b"x")

    assert breakable_broker.queue_depths(vhost) == {"deep": 3}


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_confirmed_message_survives(breakable_broker: LocalBroker, vhost: str, way: str) -> None:
    """It is still there after a power cut and after a shutdown in good order, on the same port."""
    url = breakable_broker.vhost_url(vhost)
    publish_durably(url, "kept", b"x")
    breakable_broker.wait_until_on_disk(vhost, "kept")

    getattr(breakable_broker, way)()
    assert not breakable_broker.is_running
    breakable_broker.start()

    # A quorum queue counts again once it has elected its leader.
    eventually(lambda: breakable_broker.queue_depths(vhost) == {"kept": 1})


def test_a_frozen_broker_keeps_its_connections_and_answers_nothing(breakable_broker: LocalBroker, vhost: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(breakable_broker.vhost_url(vhost))) as connection:
        channel = connection.channel()
        breakable_broker.freeze()
        assert breakable_broker.is_running
        assert not breakable_broker.management.answers(timeout=0.5)

        breakable_broker.thaw()
        channel.queue_declare("after", durable=True, arguments=QUORUM)

    assert breakable_broker.queue_depths(vhost) == {"after": 0}


def test_the_memory_alarm_blocks_publishers_until_it_is_cleared(breakable_broker: LocalBroker, vhost: str) -> None:
    blocked: list[bool] = []
    with pika.BlockingConnection(pika.URLParameters(breakable_broker.vhost_url(vhost))) as connection:
        connection.add_on_connection_blocked_callback(lambda *_: blocked.append(True))
        connection.add_on_connection_unblocked_callback(lambda *_: blocked.append(False))
        channel = connection.channel()
        channel.queue_declare("any", durable=True, arguments=QUORUM)

        breakable_broker.set_memory_alarm(True)
        assert breakable_broker.may_have_alarm
        channel.basic_publish("", "any", b"x")
        eventually(lambda: connection.process_data_events(0) is None and blocked == [True])

        breakable_broker.set_memory_alarm(False)
        assert not breakable_broker.may_have_alarm
        eventually(lambda: connection.process_data_events(0) is None and blocked == [True, False])


def test_connections_can_be_closed_from_the_brokers_side(breakable_broker: LocalBroker, vhost: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(breakable_broker.vhost_url(vhost)))

    breakable_broker.close_connections("for a test")

    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="for a test"):
        connection.process_data_events(30)


def test_a_user_has_only_the_rights_it_was_given(breakable_broker: LocalBroker, vhost: str) -> None:
    url = breakable_broker.create_user("reader", "pass/word", configure="^$", write="^$", vhost=vhost)

    connection = pika.BlockingConnection(pika.URLParameters(url))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        connection.channel().queue_declare("mine")
    connection.close()


def test_amqps_works_with_a_throw_away_authority(breakable_broker: LocalBroker, certificates: CertificateFiles) -> None:
    parameters = pika.URLParameters(breakable_broker.tls_url)
    parameters.ssl_options = pika.SSLOptions(
        ssl.create_default_context(cafile=str(certificates.authority)), "localhost"
    )
    with pika.BlockingConnection(parameters) as connection:
        assert connection.is_open


def test_amqps_is_refused_by_who_does_not_know_the_authority(breakable_broker: LocalBroker) -> None:
    parameters = pika.URLParameters(breakable_broker.tls_url)
    parameters.ssl_options = pika.SSLOptions(ssl.create_default_context(), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        pika.BlockingConnection(parameters)


def test_nothing_is_left_after_close(rabbitmq_root: Path | None) -> None:
    with LocalBroker(chroot=rabbitmq_root) as broker:
        marks = (broker.node_name, str(broker.folder), f"-port {broker.port_mapper_port} ")
        assert len(processes_naming(*marks)) >= 3

    eventually(lambda: processes_naming(*marks) == [])
    assert not broker.folder.exists()


def test_nothing_is_left_when_the_owner_is_killed(rabbitmq_root: Path | None) -> None:
    """A parent that dies by SIGKILL cannot clean up; broker, port mapper and folder go all the same."""
    program = (
        "import sys; from pathlib import Path; from tests.services.broker import LocalBroker\n"
        "broker = LocalBroker(chroot=Path(sys.argv[1]) if len(sys.argv) > 1 else None); broker.start()\n"
        "print(broker.node_name, broker.folder, broker.port_mapper_port, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, *([str(rabbitmq_root)] if rabbitmq_root else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        name, folder, port = owner.stdout.readline().split()
        marks = (name, folder, f"-port {port} ")
        assert len(processes_naming(*marks)) >= 3
        owner.send_signal(signal.SIGKILL)

    eventually(lambda: processes_naming(*marks) == [])
    eventually(lambda: not Path(folder).exists())


def test_a_tool_starts_no_port_mapper_of_its_own(rabbitmq_root: Path | None) -> None:
    """One that a tool starts beside a node that is gone would stay."""
    broker = LocalBroker(chroot=rabbitmq_root)
    try:
        with pytest.raises(subprocess.CalledProcessError):
            broker.control("status")

        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", broker.port_mapper_port)) == errno.ECONNREFUSED
    finally:
        broker.close()


def test_a_node_that_cannot_start_says_why(rabbitmq_root: Path | None) -> None:
    broker = LocalBroker(chroot=rabbitmq_root)
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", broker.amqp_port))
        occupant.listen()
        with pytest.raises(BrokerStartError, match="eaddrinuse"), broker:
            pass
    assert not broker.folder.exists()
