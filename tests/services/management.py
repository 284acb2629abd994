"""The part of RabbitMQ's management HTTP API that tests and demos need: virtual hosts, users, policies."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_TIMEOUT_SECONDS = 10.0


class ManagementError(Exception):
    """The management API refused a request; the text names method, path, status and reason."""


class ManagementApi:
    """Client of one broker's management API.

    `url` carries the credentials: `http://user:password@host:port`. Every call raises `ManagementError` when the broker
    refuses, and `OSError` when it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 15672
        self._user = unquote(parts.username or "guest")
        credentials = f"{self._user}:{unquote(parts.password or 'guest')}"
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()

    def answers(self, timeout: float = _TIMEOUT_SECONDS) -> bool:
        """Tell whether the API is up and accepts the credentials; wait at most `timeout` seconds for it."""
        try:
            self.request("GET", "/whoami", timeout=timeout)
        except (OSError, HTTPException, ManagementError):
            return False
        return True

    def version(self) -> str:
        """Return the broker's version, such as "4.0.5"."""
        return str(self.request("GET", "/overview")["rabbitmq_version"])

    def create_vhost(self, name: str) -> None:
        """Create a virtual host and give this user all rights on it; nothing happens if it is there already."""
        self.request("PUT", f"/vhosts/{_quoted(name)}", {})
        self.set_permissions(self._user, name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with everything in it and its connections; nothing happens if it is not there."""
        self.request("DELETE", f"/vhosts/{_quoted(name)}", missing_is_fine=True)

    def create_user(self, name: str, password: str, tags: str = "") -> None:
        """Create a user, or change the password and tags of an existing one."""
        self.request("PUT", f"/users/{_quoted(name)}", {"password": password, "tags": tags})

    def set_permissions(
        self, user: str, vhost: str, *, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Set a user's rights on a virtual host, as regular expressions over resource names."""
        rights = {"configure": configure, "write": write, "read": read}
        self.request("PUT", f"/permissions/{_quoted(vhost)}/{_quoted(user)}", rights)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: dict[str, Any], apply_to: str = "queues"
    ) -> None:
        """Create or replace a policy."""
        policy = {"pattern": pattern, "definition": definition, "apply-to": apply_to}
        self.request("PUT", f"/policies/{_quoted(vhost)}/{_quoted(name)}", policy)

    def delete_policy(self, vhost: str, name: str) -> None:
        """Delete a policy; nothing happens if it is not there."""
        self.request("DELETE", f"/policies/{_quoted(vhost)}/{_quoted(name)}", missing_is_fine=True)

    def queues(self, vhost: str) -> list[str]:
        """Return the names of the queues of a virtual host, sorted."""
        return sorted(queue["name"] for queue in self.request("GET", f"/queues/{_quoted(vhost)}?columns=name"))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        missing_is_fine: bool = False,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Any:
        """Make one request below `/api` and return the decoded answer, or None when there is no content."""
        connection = HTTPConnection(self._host, self._port, timeout=timeout)
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        try:
            connection.request(method, "/api" + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if missing_is_fine and response.status == HTTPStatus.NOT_FOUND:
            return None
        if response.status >= HTTPStatus.BAD_REQUEST:
            message = f"{method} {path}: {response.status} {response.reason} {content[:200].decode(errors='replace')}"
            raise ManagementError(message)
        return json.loads(content) if content else None


def _quoted(name: str) -> str:
    return quote(name, safe="")
