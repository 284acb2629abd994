"""`cim-worker explain`: what became of a message."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, counted, print_json, print_line, progress
from worker.cli.services import command_settings, store_client

if TYPE_CHECKING:
    from worker.desk.explain import Explanation
    from worker.desk.journal import Coverage
    from worker.desk.story import Story
    from worker.settings import Settings

_Id = Annotated[str, typer.Argument(metavar="ID", help="A message id, event id, letter id, or AMQP message id.")]
_Since = Annotated[
    str | None,
    typer.Option(
        help="From when on the journal is searched: 2h or 7d ago, or a time. "
        "Default: a day, or as far back as what the store knows of it."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
_ENVIRONMENT = ("CIM_RABBITMQ_URL", "CIM_MONGODB_URI")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "explain",
        explain,
        "cim-worker explain call-17",
        "cim-worker explain 67f8a1b2c3d4e5f601234567 --since 7d",
        "cim-worker explain call-17 --json | jq '.activities[].timeline'",
        environment=_ENVIRONMENT,
    )


def explain(wanted: _Id, since: _Since = None, as_json: _Json = False) -> None:
    """Tell everything that is known of a message: received, attempts, outcome and why, where it is now.

    Asked are the journal (a stream: it is read from a time on), the store, the registry and the dead letters. What is
    away is said, and the others are asked. All activities with the same message id are shown, and anchors that
    contradict each other. Exit code 5 when nothing is found, 3 or 4 when nothing is found and not all could be asked.
    """
    if not wanted.strip():
        raise CommandError(ExitCode.CONFIGURATION, "the id is blank; give a message id, event id or letter id")
    now = time.time_ns() // 1_000_000
    explanation = asyncio.run(_explain(command_settings(), wanted, now, _read_since(since, now)))
    if as_json:
        print_json(explanation.as_json())
    else:
        _print(explanation)
    if not explanation.stories:
        raise typer.Exit(_exit_code(explanation))


async def _explain(settings: Settings, wanted: str, now: int, since: int | None) -> Explanation:
    from worker.desk.explain import explain as ask
    from worker.opening import explain_sources

    with progress() as display:
        task = display.add_task("reading the journal", total=None)

        def on_progress(done: int, total: int) -> None:
            display.update(task, completed=done, total=total)

        name = "cim-worker explain"
        async with store_client(settings, name) as store:
            sources = explain_sources(store, settings, name)
            return await ask(wanted, sources, now=now, since=since, on_progress=on_progress)


def _read_since(text: str | None, now: int) -> int | None:
    from worker.desk.times import read_time

    if text is None:
        return None
    try:
        return read_time(text, now)
    except ValueError as error:
        raise CommandError(ExitCode.CONFIGURATION, f"--since: {error}") from None


def _exit_code(explanation: Explanation) -> ExitCode:
    problems = {one.where for one in explanation.searched if one.problem is not None}
    if "journal" in problems:
        return ExitCode.BROKER_UNREACHABLE
    return ExitCode.STORE_UNREACHABLE if problems else ExitCode.NOT_FOUND


def _print(explanation: Explanation) -> None:
    number = len(explanation.stories)
    means = " and ".join(explanation.meanings) or "nothing is known of it"
    print_line(f"{explanation.id}: {means}{f', of {number} activities' if number > 1 else ''}")
    for story in explanation.stories:
        print_line()
        _print_story(story)
    if explanation.is_cut:
        print_line()
        print_line("There is more than is shown: ask for an event id or a letter id.")
    print_line()
    _print_searched(explanation)
    if not explanation.stories:
        print_line("An AMQP message id other than the message's own is in the journal: --since looks further back.")


def _print_story(story: Story) -> None:
    from worker.desk.times import utc

    names = (("event", story.event_id), ("message", story.message_id), ("sender", story.sender_id))
    print_line(", ".join(f"{name} {value}" for name, value in names if value) or "a message without any id")
    for moment in story.timeline():
        print_line(f"  {utc(moment.at)}  {moment.source:<12}  {moment.text}")
    for line in story.now():
        print_line(f"  now: {line}")
    for line in story.contradictions:
        print_line(f"  anchors: {line}")


def _print_searched(explanation: Explanation) -> None:
    for one in explanation.searched:
        text = counted(one.found, "result") if one.problem is None else one.problem
        print_line(f"searched {one.where}: {text}")
        if one.where == "journal" and explanation.journal is not None:
            _print_coverage(explanation.journal)


def _print_coverage(journal: Coverage) -> None:
    from worker.desk.times import utc

    back = "it is empty" if journal.reaches_back_to is None else f"it reaches back to {utc(journal.reaches_back_to)}"
    print_line(f"  since {utc(journal.since)}, {counted(journal.messages, 'message')}; {back}")
    if journal.reaches_back_to is not None and journal.reaches_back_to < journal.since:
        print_line("  older outcomes are found with an earlier --since, for example --since 7d")
    for gap in journal.gaps:
        print_line(f"  gap: {counted(gap.missing, 'outcome')} may be missing, {utc(gap.first)} to {utc(gap.last)}")
    if journal.unreadable:
        print_line(f"  {counted(journal.unreadable, 'message')} could not be read: damaged, or not of a worker")
