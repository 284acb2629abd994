"""`cim-worker run`: the workers themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.output import add_command
from worker.cli.services import command_settings


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "run",
        run,
        "cim-worker run                     one process, until SIGTERM or SIGINT",
        "cim-worker run --processes 4       four, each restarted when it crashes",
        "cim-worker run --processes auto    one for each processor it may use",
        "CIM_LOG_FORMAT=json cim-worker run 2>worker.log",
        environment=(
            "CIM_RABBITMQ_URL",
            "CIM_MONGODB_URI",
            "CIM_PROCESSES",
            "CIM_DRAIN_GRACE_MS",
            "CIM_HTTP_PORT",
        ),
    )


def run(
    processes: Annotated[
        str | None,
        typer.Option(help="Number of worker processes, or auto (one for each processor); default: CIM_PROCESSES."),
    ] = None,
) -> None:
    """Start the workers: consume the ingress queue until a signal ends them.

    SIGTERM, SIGINT and SIGHUP drain: nothing new is consumed, deliveries in progress are finished and acknowledged.
    A second signal ends it at once. That is safe: the broker delivers again what was not acknowledged.
    """
    from worker.process.signals import hear_stop_signals
    from worker.process.supervisor import run as run_workers

    settings = command_settings() if processes is None else command_settings(processes=processes)
    raise typer.Exit(run_workers(settings, hear_stop_signals()))
