"""The desk's page from start to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.web.desk.app import application
from worker.web.desk.opening import Office
from worker.web.desk.tasks import Tasks
from worker.web.server import Limits, WebServer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from socket import socket

    from worker.ports import Clock
    from worker.settings import Settings
    from worker.web.desk.door import Door

_LIMITS: Final = Limits(connections=64, request_seconds=30.0)
_STOP_SECONDS: Final = 20.0
"""How long a replay may take to finish the letters it has in hand."""


async def serve(
    settings: Settings, door: Door, listener: socket, clock: Clock, stop: asyncio.Event, ready: Callable[[int], None]
) -> None:
    """Serve the page until *stop* is set; *ready* is told its port. Replays under way end in an orderly way.

    Raises `OperatorFault` for a store address that cannot be used.
    """
    office = Office(settings, clock)
    tasks = Tasks(on_end=office.fresh.clear)
    server = WebServer(application(office, door, tasks), listener, name="desk", limits=_LIMITS)
    try:
        await server.start()
        ready(server.port)
        await stop.wait()
        await server.stop()
        await tasks.close(_STOP_SECONDS)
    finally:
        await office.close()
