"""The command tree of `cim-worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker import __version__
from worker.cli import (
    capacity,
    conversations,
    dead_letters,
    demo,
    desk,
    doctor,
    explain,
    gateway,
    pause,
    publish,
    run,
    schemas,
    settings,
    status,
    store,
    topology,
    validate,
)
from worker.cli.output import help_end

app = typer.Typer(
    name="cim-worker",
    help="Brings CIM messages of third-party apps from RabbitMQ to their conversation or to MongoDB.",
    epilog=help_end(
        "cim-worker demo                        workers, publishers and subscribers on this machine",
        "cim-worker topology apply              create queues and exchanges",
        "cim-worker run --processes 2           start the workers",
        "cim-worker validate message.json       would this message be accepted?",
        environment=("CIM_RABBITMQ_URL", "CIM_MONGODB_URI", "CIM_LOG_LEVEL"),
    ),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cim-worker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


run.add_to(app)
status.add_to(app)
pause.add_to(app)
doctor.add_to(app)
topology.add_to(app)
store.add_to(app)
conversations.add_to(app)
validate.add_to(app)
publish.add_to(app)
gateway.add_to(app)
explain.add_to(app)
dead_letters.add_to(app)
desk.add_to(app)
capacity.add_to(app)
settings.add_to(app)
schemas.add_to(app)
demo.add_to(app)
