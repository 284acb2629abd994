"""`cim-worker validate`: would the workers accept these messages? The same code decides here and there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from worker.cli.exit_codes import ExitCode
from worker.cli.messages import FileMessage, read_messages
from worker.cli.output import add_command, counted, print_json, print_line, print_table, progress
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim import CimMessage, Rejected
    from worker.cim.warnings import CimWarning
    from worker.codes import Problem

_VALID_ROWS_SHOWN = 20


class Judged(NamedTuple):
    """A message of a file, what the workers would say of it, and what is probably a mistake in it."""

    message: FileMessage
    verdict: CimMessage | Rejected
    warnings: Sequence[CimWarning]

    def is_rejected(self, *, strict: bool = False) -> bool:
        """Tell whether it would not be accepted; *strict*: a warning counts as an error."""
        from worker.cim import Rejected

        return isinstance(self.verdict, Rejected) or (strict and bool(self.warnings))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "validate",
        validate,
        "cim-worker validate recording.json",
        "cim-worker validate --strict exports/*.jsonl --json",
        "generate-messages | cim-worker validate -",
        environment=("CIM_MAX_MESSAGE_BYTES",),
    )


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, or - for standard input.")],
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Report for each message whether the workers would accept it, and otherwise what is wrong with it.

    A file holds one message, a JSON array of messages, or JSON lines. Needs neither broker nor store.
    Warnings name what is probably a mistake, such as conversation_id for conversationId, and reject nothing.
    Exit code 6 when any message is rejected.
    """
    judged = judge(read_messages(files, "validate"), command_settings().max_message_bytes)
    if as_json:
        print_json(as_document(judged, strict=strict))
    else:
        print_judged(judged, strict=strict)
    if rejected(judged, strict=strict):
        raise typer.Exit(ExitCode.REJECTED)


def judge(messages: Sequence[FileMessage], max_bytes: int) -> list[Judged]:
    """Return each message with the verdict of the workers' own parser."""
    now = time.time_ns() // 1_000_000
    with progress() as bar:
        return [_judge(message, now, max_bytes) for message in bar.track(messages, description="validating")]


def rejected(judged: Sequence[Judged], *, strict: bool = False) -> list[Judged]:
    """Return those that would not be taken; *strict*: those with warnings, too."""
    return [one for one in judged if one.is_rejected(strict=strict)]


def print_judged(judged: Sequence[Judged], *, strict: bool = False) -> None:
    """Print a row for every problem and warning, one for every other message unless there are many, and the counts."""
    bad = len(rejected(judged, strict=strict))
    found = [one for one in judged if one.is_rejected(strict=True)]
    shown = judged if len(judged) - len(found) <= _VALID_ROWS_SHOWN else found
    rows = [row for one in shown for row in _rows(one)]
    if rows:
        print_table(None, ("file", "index", "result", "code", "pointer", "expected"), rows)
    warned = sum(bool(one.warnings) for one in judged)
    with_warnings = f", {warned} with warnings" if warned else ""
    print_line(f"{counted(len(judged), 'message')}: {len(judged) - bad} valid, {bad} rejected{with_warnings}")


def as_document(judged: Sequence[Judged], *, strict: bool = False) -> dict[str, Any]:
    """Return what `--json` prints."""
    bad = len(rejected(judged, strict=strict))
    return {
        "valid": len(judged) - bad,
        "rejected": bad,
        "with_warnings": sum(bool(one.warnings) for one in judged),
        "messages": [_message_document(one, strict=strict) for one in judged],
    }


def _judge(message: FileMessage, now: int, max_bytes: int) -> Judged:
    from worker.cim import parse
    from worker.cim.warnings import find_warnings

    verdict = parse(message.body, received_at=now, max_bytes=max_bytes)
    return Judged(message, verdict, find_warnings(message.body, received_at=now, max_bytes=max_bytes))


def _rows(judged: Judged) -> list[tuple[object, ...]]:
    place = (judged.message.file, judged.message.index)
    found = [("rejected", one) for one in _problems(judged)] + [("warning", one) for one in judged.warnings]
    if not found:
        return [(*place, "valid", None, None, None)]
    return [(*place, result, one.code, one.pointer or "(whole message)", one.expected) for result, one in found]


def _problems(judged: Judged) -> Sequence[Problem]:
    from worker.cim import Rejected

    return judged.verdict.problems if isinstance(judged.verdict, Rejected) else ()


def _message_document(judged: Judged, *, strict: bool) -> dict[str, Any]:
    identity = judged.verdict.identity
    return {
        "file": judged.message.file,
        "index": judged.message.index,
        "result": "rejected" if judged.is_rejected(strict=strict) else "valid",
        "message_id": identity.message_id,
        "sender_id": identity.sender_id,
        "problems": [
            {"code": one.code, "stage": one.code.spec.stage, "pointer": one.pointer, "expected": one.expected}
            for one in _problems(judged)
        ],
        "warnings": [{"code": one.code, "pointer": one.pointer, "expected": one.expected} for one in judged.warnings],
    }
