"""`cim-worker desk`: dead letters in the browser."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_line
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from socket import socket

    from worker.settings import Settings
    from worker.web.desk.door import Door


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "desk",
        desk,
        "cim-worker desk                        http://127.0.0.1:9465/, for this machine only",
        "cim-worker desk --port 8000",
        "CIM_READ_ONLY=true cim-worker desk     to look, and change nothing",
        environment=("CIM_RABBITMQ_URL", "CIM_MONGODB_URI", "CIM_DESK_HOST", "CIM_DESK_TOKEN_FILE"),
    )


def desk(
    port: Annotated[int | None, typer.Option(help="Port; default: CIM_DESK_PORT, else 9465.", min=0, max=65535)] = None,
) -> None:
    """Serve the dead-letter desk as a web page, until Ctrl-C: find out why letters died, fix and replay them.

    On loopback everybody on this machine may use it, under the name of the user who started it. Any other address
    needs CIM_DESK_TOKEN_FILE, or CIM_DESK_USER_HEADER of a reverse proxy. CIM_READ_ONLY lets everybody only look.
    """
    from worker.failure import OperatorFault
    from worker.web.desk.door import Door, DoorError
    from worker.web.listening import ListenError, listen

    settings = command_settings() if port is None else command_settings(desk_port=port)
    try:
        door = Door.of(settings)
        listener = listen(settings.desk_host, settings.desk_port)
        asyncio.run(_serve(settings, door, listener))
    except (DoorError, ListenError) as error:
        raise CommandError(ExitCode.CONFIGURATION, str(error)) from None
    except OperatorFault as error:
        raise CommandError(ExitCode.CONFIGURATION, f"the store refused the connection: {error}") from None


async def _serve(settings: Settings, door: Door, listener: socket) -> None:
    from worker.process.clock import SystemClock
    from worker.web.desk.serve import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def ready(port: int) -> None:
        host = f"[{settings.desk_host}]" if ":" in settings.desk_host else settings.desk_host
        print_line(f"The desk is at http://{host}:{port}/ (Ctrl-C ends it)")

    await serve(settings, door, listener, SystemClock(), stop, ready)
