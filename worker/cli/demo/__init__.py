"""`cim-worker demo`: everything at once on a given broker and store, counted at the end.

`environment` says where, `run` runs the workers and watches, `tally` compares, `report` prints, `keeping` goes on.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cli.demo.activities import Sample
    from worker.cli.demo.tally import Found


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "demo",
        demo,
        "make demo                                starts a broker and a store (in a clone of the repository)",
        "cim-worker demo                          on the broker and store of CIM_RABBITMQ_URL and CIM_MONGODB_URI",
        "cim-worker demo --messages 20000 --seed 7",
        "cim-worker demo --keep                   leaves it running, with commands to try (make demo ARGS=--keep)",
        environment=("CIM_RABBITMQ_URL", "CIM_MONGODB_URI"),
    )


def demo(
    messages: Annotated[int, typer.Option(help="How many messages to publish.", min=10, max=1_000_000)] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same messages.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running after the report, until Ctrl-C or SIGTERM.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Watch activities travel: two live conversations, a closed one, real workers, a broker and a store.

    The report says what came, what died and why, and what to try next.

    It uses the virtual host of CIM_RABBITMQ_URL, which nobody else may use meanwhile, and a database of its own on the
    store of CIM_MONGODB_URI, which is dropped at the end. Exit code 0 only if every message is accounted for.
    """
    from worker.cli.demo.environment import demo_environment
    from worker.cli.demo.report import print_next_steps, print_report, report_document
    from worker.cli.demo.run import run
    from worker.cli.demo.tally import tally
    from worker.cli.output import print_json

    def report(samples: Sequence[Sample], found: Found) -> None:
        result = tally(samples, found)
        complaints.extend(result.complaints)
        if as_json:
            print_json(report_document(result, found))
        else:
            print_report(samples, result, found)

    complaints: list[str] = []
    # SIGTERM ends it like Ctrl-C, by way of the event loop: raised anywhere, the interrupt could leave it hanging.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with demo_environment(say=_say) as environment:
        run(environment, seed=seed, count=messages, say=_say, report=report, keep=keep)
    if not (as_json or keep):
        print_next_steps()
    if complaints:
        raise typer.Exit(ExitCode.UNEXPECTED)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - what happens, while it happens
