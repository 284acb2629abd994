"""`cim-worker demo`: everything at once on this machine, counted at the end.

`stage` finds or starts broker and store, `play` runs the workers and watches, `tally` compares, `report` prints.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "demo",
        demo,
        "cim-worker demo",
        "cim-worker demo --messages 20000 --seed 7",
        "CIM_RABBITMQ_URL=amqp://guest:guest@localhost:5672/ cim-worker demo",
        environment=("CIM_RABBITMQ_URL", "CIM_MONGODB_URI"),
    )


def demo(
    messages: Annotated[int, typer.Option(help="How many messages to publish.", min=10, max=1_000_000)] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same messages.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Watch activities travel: two live conversations, a closed one, real workers, a broker and a store.

    Broker and store are started for the occasion unless CIM_RABBITMQ_URL and CIM_MONGODB_URI name some; then a
    virtual host and a database of the demo's own are used and removed. Exit code 0 only if every message is accounted
    for.
    """
    from worker.cli.demo.play import play
    from worker.cli.demo.report import print_report, report_document
    from worker.cli.demo.stage import set_stage
    from worker.cli.demo.tally import tally
    from worker.cli.output import print_json

    # Told to stop, leave the stage as after Ctrl-C: with everything that was started ended and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with set_stage(say=_say) as stage:
        samples, found = play(stage, seed=seed, count=messages, say=_say)
    result = tally(samples, found)
    if as_json:
        print_json(report_document(result, found))
    else:
        print_report(result, found)
    if not result.adds_up:
        raise typer.Exit(ExitCode.UNEXPECTED)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - what happens, while it happens
