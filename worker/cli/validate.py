"""`cim-worker validate`: would the workers accept these messages? The same code decides here and there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exit_codes import ExitCode
from worker.cli.messages import FileMessage, read_messages
from worker.cli.output import add_command, counted, print_json, print_line, print_table, progress
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim import CimMessage, Rejected

_VALID_ROWS_SHOWN = 20

Judged = tuple[FileMessage, "CimMessage | Rejected"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "validate",
        validate,
        "cim-worker validate recording.json",
        "cim-worker validate exports/*.jsonl --json",
        "generate-messages | cim-worker validate -",
        environment=("CIM_MAX_MESSAGE_BYTES",),
    )


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Report for each message whether the workers would accept it, and otherwise what is wrong with it.

    A file holds one message, a JSON array of messages, or JSON lines. Needs neither broker nor store.
    Exit code 6 when any message is rejected.
    """
    judged = judge(read_messages(files, "validate"), command_settings().max_message_bytes)
    if as_json:
        print_json(as_document(judged))
    else:
        print_judged(judged)
    if rejected(judged):
        raise typer.Exit(ExitCode.REJECTED)


def judge(messages: Sequence[FileMessage], max_bytes: int) -> list[Judged]:
    """Return each message with the verdict of the workers' own parser."""
    from worker.cim import parse

    now = time.time_ns() // 1_000_000
    with progress() as bar:
        return [
            (message, parse(message.body, received_at=now, max_bytes=max_bytes))
            for message in bar.track(messages, description="validating")
        ]


def rejected(judged: Sequence[Judged]) -> list[Judged]:
    """Return those that would not be taken."""
    from worker.cim import Rejected

    return [pair for pair in judged if isinstance(pair[1], Rejected)]


def print_judged(judged: Sequence[Judged]) -> None:
    """Print a row for every problem, a row for every valid message unless there are many, and the count."""
    bad = rejected(judged)
    shown = judged if len(judged) - len(bad) <= _VALID_ROWS_SHOWN else bad
    rows = [row for message, verdict in shown for row in _rows(message, verdict)]
    if rows:
        print_table(None, ("file", "index", "result", "code", "pointer", "expected"), rows)
    print_line(f"{counted(len(judged), 'message')}: {len(judged) - len(bad)} valid, {len(bad)} rejected")


def as_document(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return what `--json` prints."""
    bad = len(rejected(judged))
    return {
        "valid": len(judged) - bad,
        "rejected": bad,
        "messages": [_message_document(message, verdict) for message, verdict in judged],
    }


def _rows(message: FileMessage, verdict: CimMessage | Rejected) -> list[tuple[object, ...]]:
    from worker.cim import Rejected

    if not isinstance(verdict, Rejected):
        return [(message.file, message.index, "valid", None, None, None)]
    return [
        (message.file, message.index, "rejected", one.code, one.pointer or "(whole message)", one.expected)
        for one in verdict.problems
    ]


def _message_document(message: FileMessage, verdict: CimMessage | Rejected) -> dict[str, Any]:
    from worker.cim import Rejected

    place = {"file": message.file, "index": message.index}
    if not isinstance(verdict, Rejected):
        return {**place, "result": "valid", "message_id": verdict.id, "sender_id": verdict.sender_id, "problems": []}
    problems = [
        {"code": one.code, "stage": one.code.spec.stage, "pointer": one.pointer, "expected": one.expected}
        for one in verdict.problems
    ]
    ids = {"message_id": verdict.identity.message_id, "sender_id": verdict.identity.sender_id}
    return {**place, "result": "rejected", **ids, "problems": problems}
