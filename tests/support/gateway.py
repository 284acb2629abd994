"""The real `cim-worker gateway` as a subprocess, and clients as plain as HTTP allows."""

from __future__ import annotations

import contextlib
import http.client
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.services.processes import free_ports
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.services.services import Broker

ACTIVITIES = "/conversation-manager/activities"
NO_VARIABLES: Mapping[str, str] = {}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """One running gateway."""

    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        *,
        seconds: float = 15,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())

    def post(self, message: object, path: str = ACTIVITIES, *, seconds: float = 15, **headers: str) -> Reply:
        """Post *message*, as compact JSON unless it is bytes; underscores in the names of *headers* are hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, written(message), JSON | named, seconds=seconds)

    def reasons_not_ready(self) -> list[str]:
        try:
            return list(self.request("GET", "/readyz").document["reasons"])
        except OSError:
            return ["no answer"]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        entries = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]


def written(message: object) -> bytes:
    """Return *message* as JavaScript's JSON.stringify writes it."""
    if isinstance(message, bytes):
        return message
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


@contextlib.contextmanager
def gateway(
    amqp_url: str,
    folder: Path,
    *,
    ready: bool = True,
    variables: Mapping[str, str] = NO_VARIABLES,
    most_descriptors: int = 4096,
) -> Iterator[Gateway]:
    """Run a gateway with the settings *variables* until the end of the block, from when it is *ready*, or answers."""
    port = free_ports(1)[0]
    running_one = Gateway(port, folder / f"gateway-{port}.log")
    settings = {
        "CIM_RABBITMQ_URL": amqp_url,
        "CIM_GATEWAY_PORT": str(port),
        "CIM_HTTP_PORT": "0",
        "CIM_LOG_FORMAT": "json",
        **variables,
    }
    limited = ("sh", "-c", f'ulimit -n {most_descriptors} && exec "$0" "$@"', COMMAND, "gateway")
    with running(*limited, log=running_one.log, **settings) as process:
        running_one.process = process
        wanted = (lambda: not running_one.reasons_not_ready()) if ready else (lambda: answers(running_one))
        eventually(wanted, f"the gateway of {running_one.log}")
        yield running_one


@contextlib.contextmanager
def virtual_host(broker: Broker) -> Iterator[str]:
    """Yield the address of a virtual host with all queues, deleted at the end of the block."""
    name = f"test-{uuid.uuid4().hex}"
    url = broker.create_vhost(name)
    try:
        assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url).returncode == 0
        yield url
    finally:
        broker.delete_vhost(name)


def answers(one: Gateway) -> bool:
    """Tell whether a gateway answers at all."""
    with contextlib.suppress(OSError):
        return one.request("GET", "/livez").status == http.HTTPStatus.OK
    return False
