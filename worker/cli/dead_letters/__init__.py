"""`cim-worker dead-letters`: find out why letters died, fix them, replay them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from worker.cli.dead_letters import (
    deciding,
    editing,
    finding,
    fixing,
    planning,
    purging,
    replaying,
    showing,
    transferring,
    watching,
)
from worker.cli.dead_letters import jobs as bulk
from worker.cli.dead_letters.options import without_command
from worker.cli.output import add_command, help_end

if TYPE_CHECKING:
    from collections.abc import Callable

_STORE: Final = ("CIM_MONGODB_URI", "CIM_MONGODB_DATABASE")
_BOTH: Final = ("CIM_RABBITMQ_URL", *_STORE)
_COMMANDS: Final[tuple[tuple[str, Callable[..., None], tuple[str, ...], tuple[str, ...]], ...]] = (
    (
        "groups",
        finding.groups,
        ("cim-worker dead-letters", "cim-worker dead-letters groups --since 2h --newest"),
        _BOTH,
    ),
    ("list", finding.list_, ("cim-worker dead-letters list 3f2a --limit 10",), _STORE),
    ("show", showing.show, ("cim-worker dead-letters show 3f2a",), _STORE),
    ("plan", planning.plan, ("cim-worker dead-letters plan 3f2a",), _STORE),
    (
        "replay",
        replaying.replay,
        (
            "cim-worker dead-letters replay 3f2a --reason 'store was full' --ramp 1,10,100",
            "cim-worker dead-letters replay --resume 5e1f0a2b",
        ),
        _BOTH,
    ),
    (
        "fix",
        fixing.fix,
        ("cim-worker dead-letters fix 3f2a --rename header.customer.id=header.customer._id",),
        _STORE,
    ),
    ("edit", editing.edit, ("EDITOR=vi cim-worker dead-letters edit 67f8a1b2c3d4e5f601234567",), _STORE),
    ("discard", deciding.discard, ("cim-worker dead-letters discard 3f2a --reason 'test messages'",), _STORE),
    ("restore", deciding.restore, ("cim-worker dead-letters restore 3f2a --reason 'they were no tests'",), _STORE),
    (
        "purge",
        purging.purge,
        ("cim-worker dead-letters purge --customer u-1 --activities --reason 'erasure request 17'",),
        _STORE,
    ),
    ("export", transferring.export, ("cim-worker dead-letters export 3f2a > letters.jsonl",), _STORE),
    (
        "import",
        transferring.import_,
        ("cim-worker dead-letters import letters.jsonl --reason 'to reproduce it'",),
        _STORE,
    ),
    ("watch", watching.watch, ("cim-worker dead-letters watch --sender app-1",), _STORE),
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Find out why letters died, fix them, replay them. Without a command: `groups`.",
        epilog=help_end(
            "cim-worker dead-letters --since 2h            one line per cause",
            "cim-worker dead-letters show 3f2a             why, and what was sent",
            "cim-worker dead-letters plan 3f2a             what would a replay do now?",
            "cim-worker dead-letters replay 3f2a --ramp 1,10,100 --reason 'fixed in 2.1'",
            environment=(*_BOTH, "CIM_READ_ONLY"),
        ),
        invoke_without_command=True,
    )

    group.callback()(without_command(finding.groups))
    for name, function, examples, environment in _COMMANDS:
        add_command(group, name, function, *examples, environment=environment)
    jobs = typer.Typer(help="Bulk operations: who, when, why, and how they ended.", invoke_without_command=True)

    jobs.callback()(without_command(bulk.jobs))
    add_command(jobs, "list", bulk.jobs, "cim-worker dead-letters jobs list --json", environment=_STORE)
    add_command(jobs, "show", bulk.show_job, "cim-worker dead-letters jobs show 5e1f0a2b", environment=_STORE)
    add_command(jobs, "cancel", bulk.cancel, "cim-worker dead-letters jobs cancel 5e1f0a2b", environment=_STORE)
    group.add_typer(jobs, name="jobs")
    app.add_typer(group, name="dead-letters")
