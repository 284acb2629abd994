"""Connections to the broker, and which of its nodes they go to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from worker.addresses import address
from worker.rabbit.alive import NodeWatch
from worker.rabbit.connection import Connection
from worker.rabbit.errors import NodeSilent

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from worker.process.app import App

_AVOID_SECONDS = 60.0
"""How long a node that did not answer is tried after the others."""


class Connector:
    """Opens the connections of one process, session after session."""

    def __init__(self, app: App, index: int) -> None:
        """Open connections for process number *index*, whose number stands in their names."""
        self._app = app
        self._index = index
        self._avoided = "", 0.0
        self._opened: list[Connection] = []

    async def open(self, purpose: str, *, url: str | None = None, max_bytes_in_hand: int | None = None) -> Connection:
        """Open one for *purpose*, which is its name at the broker; to the node at *url* alone, if given.

        Raises `BrokerError`.
        """
        settings = self._app.settings
        avoided, until = self._avoided
        connection = await Connection.open(
            url or settings.rabbitmq_url.get_secret_value(),
            name=f"cim-worker {self._index} {purpose}",
            heartbeat_seconds=settings.rabbitmq_heartbeat_seconds,
            ca_file=settings.rabbitmq_ca_file,
            max_bytes_in_hand=max_bytes_in_hand,
            avoid=avoided if self._app.clock.monotonic() < until else None,
        )
        self._opened = [*(one for one in self._opened if not one.closed.done()), connection]
        return connection

    async def close_all(self, *, failed: bool) -> None:
        """Close every connection that is open, all at once; *failed* as in `Connection.close`."""
        await asyncio.gather(*(one.close(failed=failed) for one in self._opened))

    def node_watches(self, *connections: Connection) -> list[Coroutine[Any, Any, None]]:
        """Return what leaves a node that answers nothing, where there are others."""
        if "," not in self._app.settings.rabbitmq_url.get_secret_value():
            return []
        ca_file = self._app.settings.rabbitmq_ca_file
        return [NodeWatch(one, ca_file=ca_file, on_silent=self._avoid).run() for one in connections]

    def _avoid(self, url: str) -> None:
        """Try the node at *url* last for a while, and wait for an answer on none of its connections."""
        self._avoided = url, self._app.clock.monotonic() + _AVOID_SECONDS
        for connection in self._opened:
            if connection.url == url:
                connection.abort(NodeSilent(address(url)))
