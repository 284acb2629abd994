"""A small client of RabbitMQ's management API: what AMQP cannot see or do. Every call has a deadline."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from worker.addresses import virtual_host
from worker.contract import partition_queue
from worker.rabbit.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

_DEFAULT_PORT = 15672
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_READ_BYTES = 64 * 1024
_HIGHEST_PRIORITY = 1_000_000


class ManagementUnavailable(BrokerError):  # noqa: N818 - as the other errors of the broker
    """The management API did not answer in time, or not with what was asked for."""


class ManagementSettings(Protocol):
    """What of the settings says where the management API is, and of what it is asked."""

    @property
    def rabbitmq_management_url(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def rabbitmq_url(self) -> SecretStr: ...  # noqa: D102
    @property
    def rabbitmq_ca_file(self) -> str | None: ...  # noqa: D102


class Management:
    """Reads one virtual host.

    Args:
        url: `http://user:password@host:15672` or `https://…`; neither user nor password is ever shown.
        vhost: the virtual host to look into.
        ca_file: PEM file with the authorities to trust for https; None means the system's.
        timeout_seconds: longest any one call may take.
    """

    def __init__(self, url: str, vhost: str, *, ca_file: str | None = None, timeout_seconds: float = 5.0) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "localhost", parts.port or _DEFAULT_PORT
        credentials = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._vhost = quote(vhost, safe="")
        self._ca_file = ca_file
        self._timeout = timeout_seconds

    @classmethod
    def of(cls, settings: ManagementSettings) -> Management | None:
        """Return a client for the virtual host of the broker in *settings*, None where they name no management API."""
        url = settings.rabbitmq_management_url
        if url is None:
            return None
        return cls(url.get_secret_value(), virtual_host(settings.rabbitmq_url), ca_file=settings.rabbitmq_ca_file)

    async def queue(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a queue, or None when it does not exist. Raises `ManagementUnavailable`."""
        found: dict[str, Any] | None = await self._get(f"queues/{self._vhost}/{_quoted(name)}")
        return found

    async def partitions(self) -> int:
        """Return how many partitions the ingress has; 0: it is not partitioned. Raises `ManagementUnavailable`."""
        count = 0
        while await self.queue(partition_queue(count)) is not None:
            count += 1
        return count

    async def exchange(self, name: str) -> dict[str, Any] | None:
        """Return what is known of an exchange, or None when it does not exist. Raises `ManagementUnavailable`."""
        found: dict[str, Any] | None = await self._get(f"exchanges/{self._vhost}/{_quoted(name)}")
        return found

    async def bindings(self, exchange: str, queue: str) -> list[dict[str, Any]]:
        """Return the bindings from an exchange to a queue. Raises `ManagementUnavailable`."""
        return await self._get(f"bindings/{self._vhost}/e/{_quoted(exchange)}/q/{_quoted(queue)}") or []

    async def bound_to(self, exchange: str) -> set[str]:
        """Return the names of all that is bound to an exchange. Raises `ManagementUnavailable`."""
        bindings = await self._get(f"exchanges/{self._vhost}/{_quoted(exchange)}/bindings/source") or []
        return {one["destination"] for one in bindings}

    async def exchange_names(self, prefix: str) -> set[str]:
        """Return the names of all exchanges that begin with *prefix*. Raises `ManagementUnavailable`."""
        exchanges = await self._get(f"exchanges/{self._vhost}?columns=name") or []
        return {one["name"] for one in exchanges if one["name"].startswith(prefix)}

    async def queues(self) -> list[dict[str, Any]]:
        """Return every queue with type, leader, arguments and the policy in force. Raises `ManagementUnavailable`."""
        columns = "columns=name,type,leader,arguments,effective_policy_definition"
        return await self._get(f"queues/{self._vhost}?{columns}") or []

    async def queues_bound_to(self, prefix: str) -> set[str]:
        """Return the queues bound to exchanges whose names begin with *prefix*. Raises `ManagementUnavailable`."""
        found = await self._get(f"bindings/{self._vhost}?columns=source,destination,destination_type") or []
        return {
            one["destination"]
            for one in found
            if one["destination_type"] == "queue" and one["source"].startswith(prefix)
        }

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the broker's nodes with their alarms. Raises `ManagementUnavailable`."""
        return await self._get("nodes?columns=name,running,mem_alarm,disk_free_alarm") or []

    async def rebalance(self) -> None:
        """Have the broker spread the leaders of its queues, of every virtual host; needs the tag administrator.

        It does so when it has answered. Raises `ManagementUnavailable`.
        """
        await self._change("POST", "rebalance/queues", {})

    async def policies(self) -> list[dict[str, Any]]:
        """Return the policies of users. Raises `ManagementUnavailable`."""
        return await self._get(f"policies/{self._vhost}") or []

    async def operator_policies(self) -> list[dict[str, Any]]:
        """Return the policies of operators, which come on top. Raises `ManagementUnavailable`."""
        return await self._get(f"operator-policies/{self._vhost}") or []

    async def set_policy(self, name: str, pattern: str, definition: Mapping[str, Any]) -> None:
        """Put a policy above all others on the queues that match; needs the tag policymaker.

        Raises `ManagementUnavailable`.
        """
        policy = {"pattern": pattern, "definition": definition, "apply-to": "queues", "priority": _HIGHEST_PRIORITY}
        await self._change("PUT", f"policies/{self._vhost}/{_quoted(name)}", policy)

    async def remove_policy(self, name: str) -> None:
        """Remove a policy; nothing happens if it is not there. Raises `ManagementUnavailable`."""
        await self._change("DELETE", f"policies/{self._vhost}/{_quoted(name)}")

    async def _change(self, method: str, path: str, body: object = None) -> None:
        content = None if body is None else json.dumps(body)
        status, _ = await asyncio.to_thread(self._fetch, f"/api/{path}", method, content)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            text = "refuses its user: it needs the tag policymaker and any permission on the virtual host"
            raise ManagementUnavailable(f"the management API at {self._host}:{self._port} {text}")
        if status >= HTTPStatus.BAD_REQUEST and not (method == "DELETE" and status == HTTPStatus.NOT_FOUND):
            raise ManagementUnavailable(f"the management API at {self._host}:{self._port} answers {status}")

    async def _get(self, path: str) -> Any:
        status, body = await asyncio.to_thread(self._fetch, f"/api/{path}")
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            text = "refuses its user: it needs the tag monitoring and any permission on the virtual host"
            raise ManagementUnavailable(f"the management API at {self._host}:{self._port} {text}")
        try:
            if status == HTTPStatus.OK:
                return json.loads(body)
        except ValueError:
            pass
        raise ManagementUnavailable(f"the management API at {self._host}:{self._port} answers {status} and no data")

    def _fetch(self, path: str, method: str = "GET", content: str | None = None) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._timeout
        connection = self._connection()
        try:
            headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
            connection.request(method, path, content, headers)
            sock = connection.sock
            response = connection.getresponse()
            body = b""
            while (left := deadline - time.monotonic()) > 0 and len(body) <= _MAX_ANSWER_BYTES:
                sock.settimeout(left)
                part = response.read1(_READ_BYTES)
                if not part:
                    return response.status, body
                body += part
            reason = "it did not end its answer in time"
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        finally:
            connection.close()
        raise ManagementUnavailable(f"the management API at {self._host}:{self._port} gives no answer: {reason}")

    def _connection(self) -> HTTPConnection:
        if not self._is_tls:
            return HTTPConnection(self._host, self._port, timeout=self._timeout)
        context = ssl.create_default_context(cafile=self._ca_file)
        return HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)


def _quoted(name: str) -> str:
    return quote(name, safe="")
