"""RabbitMQ and MongoDB in Docker containers, through testcontainers, when a Docker engine really answers."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.services.management import ManagementApi
from tests.services.mongod import answers as mongo_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RABBITMQ_IMAGE = "rabbitmq:4-management"
_WITH_PLUGIN = (
    "rabbitmq-plugins enable --offline rabbitmq_consistent_hash_exchange && exec docker-entrypoint.sh rabbitmq-server"
)
MONGODB_IMAGE = "mongo:8"
READY_TIMEOUT_SECONDS = 180.0
_PING_TIMEOUT_SECONDS = 3
_POLL_SECONDS = 0.2


class ContainerStartError(Exception):
    """A container started but its server did not answer in time."""


def engine_answers() -> bool:
    """Tell whether a Docker engine answers; False when the extra `sandbox` is not installed."""
    try:
        import docker  # noqa: PLC0415 - comes with the extra `sandbox`
        from docker.utils import kwargs_from_env  # noqa: PLC0415
    except ImportError:
        return False
    where: dict[str, Any] = kwargs_from_env()
    socket = where.get("base_url", "unix:///var/run/docker.sock")
    if socket.startswith("unix://") and not Path(socket.removeprefix("unix://")).exists():
        return False
    try:
        client = docker.DockerClient(timeout=_PING_TIMEOUT_SECONDS, version="auto", **where)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


@contextmanager
def rabbitmq() -> Iterator[tuple[str, str]]:
    """Run RabbitMQ 4 with management; yield its AMQP URL and its management URL."""
    with _running(RABBITMQ_IMAGE, 5672, 15672, command=["sh", "-c", _WITH_PLUGIN]) as (amqp, management):
        management_url = f"http://guest:guest@{management}"
        _wait_for(ManagementApi(management_url).answers, RABBITMQ_IMAGE)
        yield f"amqp://guest:guest@{amqp}/", management_url


@contextmanager
def mongodb() -> Iterator[str]:
    """Run MongoDB 8; yield its URI."""
    with _running(MONGODB_IMAGE, 27017) as (address,):
        uri = f"mongodb://{address}/"
        _wait_for(lambda: mongo_answers(uri), MONGODB_IMAGE)
        yield uri


@contextmanager
def _running(image: str, *ports: int, command: list[str] | None = None) -> Iterator[tuple[str, ...]]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - comes with the extra `sandbox`

    container = DockerContainer(image)
    if command is not None:
        container.with_command(command)
    # RabbitMQ's `guest` may only log in from the container's own loopback unless told otherwise.
    container.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-rabbit loopback_users []")
    container.with_exposed_ports(*ports)
    with container:
        host = container.get_container_host_ip()
        yield tuple(f"{host}:{container.get_exposed_port(port)}" for port in ports)


def _wait_for(is_ready: Callable[[], bool], image: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while not is_ready():
        if time.monotonic() > deadline:
            message = f"{image} runs but did not answer within {READY_TIMEOUT_SECONDS:.0f} s"
            raise ContainerStartError(message)
        time.sleep(_POLL_SECONDS)
