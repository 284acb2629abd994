"""The command line `cim-worker`: one file per noun. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `cim-worker` with the arguments of this process, and end it with one of the named exit codes."""
    if sys.argv[1:2] == ["run"]:
        from worker.process.signals import hear_stop_signals

        hear_stop_signals()
    from worker.cli.application import app
    from worker.cli.errors import refuse_unreadable, report
    from worker.cli.streams import prepare_streams

    prepare_streams()
    try:
        refuse_unreadable(sys.argv[1:])
        app(prog_name="cim-worker")
    except Exception as error:  # noqa: BLE001 - the last line of defence: one readable line and a code
        sys.exit(report(error))
