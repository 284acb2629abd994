"""`cim-worker validate`: would the workers accept these messages? The same code decides here and there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.findings import Format, print_document, print_github, print_text, rows
from worker.cli.messages import read_messages
from worker.cli.output import add_command, counted, print_line, print_table, progress, shows_on_terminal
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.cim.message import Identity
    from worker.cim.warnings import CimWarning
    from worker.cli.messages import FileMessage
    from worker.cli.routes import Route
    from worker.codes import Problem

_VALID_ROWS_SHOWN = 20
_COLUMNS = ("file", "index", "result", "code", "pointer", "expected", "found", "line", "column")


class Judged(NamedTuple):
    """A message of a file, what the workers would say of it, and what is probably a mistake in it.

    There may be hundreds of thousands: of what is parsed only this is kept.
    """

    message: FileMessage
    identity: Identity
    problems: Sequence[Problem]
    """Why it would be rejected, if it would."""
    warnings: Sequence[CimWarning]

    def is_rejected(self, *, strict: bool = False) -> bool:
        """Tell whether it would not be accepted; *strict*: a warning counts as an error."""
        return bool(self.problems) or (strict and bool(self.warnings))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "validate",
        validate,
        "cim-worker validate recording.json",
        "cim-worker validate --strict exports/*.jsonl --json",
        "cim-worker validate --route recording.json",
        "generate-messages | cim-worker validate -",
        environment=("CIM_MAX_MESSAGE_BYTES", "CIM_MONGODB_URI (--route)"),
    )


def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, or - for standard input.")],
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as errors.")] = False,
    route: Annotated[
        bool, typer.Option("--route", help="Say where each valid message would go now; asks the registry in the store.")
    ] = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="On a terminal text, with a caret; in a pipe table; else json or github."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Report for each message whether the workers would accept it, and otherwise what is wrong with it, and where.

    A file holds one message, a JSON array of messages, JSON lines, or JSON texts in a row. Needs neither broker nor
    store, unless --route is given. Values of a message are never printed, only names of fields, types and shapes.
    Warnings name what is probably a mistake, such as conversation_id for conversationId, and reject nothing unless
    --strict is given.

    Exit code 0: all valid. 6: a message is rejected. 2: a file cannot be read, or holds no message. 4: --route, and the
    store does not answer.
    """
    if as_json and form not in {None, Format.JSON}:
        raise CommandError(ExitCode.CONFIGURATION, f"--json is --format json: give it or --format {form}, not both")
    settings = command_settings()
    judged = judge(read_messages(files, "validate"), settings.max_message_bytes)
    routes: Mapping[int, Route] = {}
    if route:
        from worker.cli.routes import find_routes

        routes = asyncio.run(find_routes(settings, judged))
    _print(judged, routes, _format(form, as_json=as_json), strict=strict)
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
    """Print every problem and warning, every other message unless there are many, and the counts."""
    _print(judged, {}, _format(None, as_json=False), strict=strict)


def _format(form: Format | None, *, as_json: bool) -> Format:
    if as_json:
        return Format.JSON
    return form or (Format.TEXT if shows_on_terminal() else Format.TABLE)


def _print(judged: Sequence[Judged], routes: Mapping[int, Route], form: Format, *, strict: bool) -> None:
    if form is Format.JSON:
        print_document(judged, routes, strict=strict)
        return
    found = [one for one in judged if one.is_rejected(strict=True)]
    shown = judged if len(judged) - len(found) <= _VALID_ROWS_SHOWN else found
    if form is Format.TEXT:
        print_text(shown)
    elif form is Format.GITHUB:
        print_github(found, strict=strict)
    elif shown:
        print_table(None, _COLUMNS, (row for one in shown for row in rows(one)))
    if routes:
        _print_routes(judged, routes)
    print_line(_summary(judged, strict=strict))


def _print_routes(judged: Sequence[Judged], routes: Mapping[int, Route]) -> None:
    lines = ((judged[place].message.file, judged[place].message.index, *route.cells) for place, route in routes.items())
    print_table("Where they would go now", ("file", "index", "goes to", "because", "notes"), lines)


def _summary(judged: Sequence[Judged], *, strict: bool) -> str:
    bad = len(rejected(judged, strict=strict))
    warned = sum(bool(one.warnings) for one in judged)
    with_warnings = f", {warned} with warnings" if warned else ""
    return f"{counted(len(judged), 'message')}: {len(judged) - bad} valid, {bad} rejected{with_warnings}"


def _judge(message: FileMessage, now: int, max_bytes: int) -> Judged:
    from worker.cim import Rejected, parse
    from worker.cim.warnings import find_warnings

    verdict = parse(message.body, received_at=now, max_bytes=max_bytes)
    problems = verdict.problems if isinstance(verdict, Rejected) else ()
    warnings = find_warnings(message.body, received_at=now, max_bytes=max_bytes)
    return Judged(message, verdict.identity, problems, warnings or ())
