"""`cim-worker status`: how the pool is doing."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, counted, has_reader, print_json, print_line, print_table
from worker.cli.services import command_settings, store_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.desk.status import Depth, Report
    from worker.settings import Settings

_Since = Annotated[str, typer.Option(help="How far back outcomes and new letters are counted: 30s, 5m, 2h.")]
_Watch = Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")]
_Interval = Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks with --watch.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table; with --watch one line each time.")]
_ENVIRONMENT = ("CIM_RABBITMQ_URL", "CIM_MONGODB_URI", "CIM_RABBITMQ_MANAGEMENT_URL")
_CLEAR = "\x1b[H\x1b[2J"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "status",
        status,
        "cim-worker status",
        "cim-worker status --watch",
        "cim-worker status --json | jq '.attention[]'",
        environment=_ENVIRONMENT,
    )


def status(since: _Since = "5m", watch: _Watch = False, interval: _Interval = 2.0, as_json: _Json = False) -> None:
    """Show how the pool is doing: lag, outcomes of the last minutes, waiting room, retry tiers, letters, dependencies.

    Nothing is changed, and nothing is taken from a queue. What cannot be asked is said. Exit code 3 when the broker is
    away, 4 when the store is, 2 when queues are missing; 0 says that all could be asked, not that all is well: for
    that see `attention`. With CIM_RABBITMQ_MANAGEMENT_URL the lag has the unacknowledged messages, too.
    """
    window_ms = _window(since)
    code = asyncio.run(_run(command_settings(), window_ms, interval if watch else None, as_json=as_json))
    if code is not ExitCode.OK:
        raise typer.Exit(code)


async def _run(settings: Settings, window_ms: int, interval: float | None, *, as_json: bool) -> ExitCode:
    from worker.desk.status import Observer
    from worker.opening import status_sources

    name = "cim-worker status"
    async with store_client(settings, name) as store:
        observer = Observer(status_sources(store, settings, name), window_ms)
        while True:
            report = await observer.look(time.time_ns() // 1_000_000)
            _show(report, as_json=as_json, again=interval is not None)
            if interval is None or not has_reader():
                return _exit_code(report)
            await asyncio.sleep(interval)


def _window(text: str) -> int:
    from worker.desk.times import read_time

    now = time.time_ns() // 1_000_000
    try:
        window_ms = now - read_time(text, now)
    except ValueError as error:
        raise CommandError(ExitCode.CONFIGURATION, f"--since: {error}") from None
    if window_ms <= 0:
        raise CommandError(ExitCode.CONFIGURATION, f"--since: {text!r} is not before now")
    return window_ms


def _exit_code(report: Report) -> ExitCode:
    is_up = {name: one.is_up for name, one in report.dependencies.items()}
    if not is_up.get("broker"):
        return ExitCode.BROKER_UNREACHABLE
    if not is_up.get("store"):
        return ExitCode.STORE_UNREACHABLE
    return ExitCode.CONFIGURATION if report.missing else ExitCode.OK


def _show(report: Report, *, as_json: bool, again: bool) -> None:
    if as_json and again:
        print_line(json.dumps(report.as_json()))
    elif as_json:
        print_json(report.as_json())
    else:
        if again and sys.stdout.isatty():
            sys.stdout.write(_CLEAR)
        print_table(None, ("what", "now"), list(_rows(report)))
        for line in report.attention():
            print_line(f"! {line}")


def _rows(report: Report) -> Iterator[tuple[str, object]]:
    from worker import contract
    from worker.desk.times import duration, utc

    window = duration(report.window_ms)
    yield "at", utc(report.at, timespec="seconds")
    yield "pool", [pool.in_words() for pool in report.pools] or "no report"
    yield "lag", _lag(report)
    if report.partitions:
        queues = contract.ingress_queues(report.partitions)
        each = {name.removeprefix(f"{contract.INGRESS}."): report.depth(name) for name in queues}
        yield "each partition", ", ".join(f"{name}: {_ready(depth)}" for name, depth in each.items())
    oldest = report.oldest_ms
    yield "oldest message", "unknown" if oldest is None else f"about {duration(oldest)}" if oldest else "none waits"
    yield f"outcomes, last {window}", _outcomes(report)
    yield "waiting room", _ready(report.depth(contract.WAITING))
    tiers = {delay: report.depth(contract.retry_queue(delay)) for delay in report.retry_delays}
    yield "retry tiers", ", ".join(f"{delay}: {_ready(depth)}" for delay, depth in tiers.items())
    yield "conversation events", _ready(report.depth(contract.CONVERSATION_EVENTS))
    yield f"dead letters, last {window}", _letters(report)
    yield "not recorded yet", _ready(report.depth(contract.DEAD_LETTERS))
    yield "parked", _ready(report.depth(contract.PARKED))
    for one in report.dependencies.values():
        yield one.name, one.detail if one.is_up else f"DOWN: {one.detail}"


def _lag(report: Report) -> str:
    depth = report.ingress
    if depth is None:
        return "unknown"
    consumers = "" if depth.consumers is None else f"; {counted(depth.consumers, 'consumer')}"
    if depth.unacknowledged is None:
        return f"{depth.ready} ready{consumers}; what is unacknowledged is seen with CIM_RABBITMQ_MANAGEMENT_URL"
    return f"{depth.all}: {depth.ready} ready and {depth.unacknowledged} unacknowledged{consumers}"


def _outcomes(report: Report) -> object:
    outcomes = report.outcomes
    if outcomes is None:
        return "unknown: the journal cannot be read"
    if not outcomes.total:
        return "none"
    lines = []
    for outcome, number in outcomes.by_outcome().most_common():
        codes = _codes(outcomes.kinds, outcome).most_common()
        lines += [f"{number} {outcome}", *(f"  {times} {code}" for code, times in codes)]
    lines.append(f"{outcomes.per_second:.1f} a second")
    if outcomes.p95_ms is not None:
        lines.append(f"95 % done within {outcomes.p95_ms} ms of their receipt, half within {outcomes.p50_ms} ms")
    return lines


def _codes(kinds: Mapping[Any, int], outcome: str) -> Counter[str]:
    """Return how often an outcome had which code."""
    codes: Counter[str] = Counter()
    for kind, number in kinds.items():
        if kind.outcome == outcome and kind.code is not None:
            codes[kind.code] += number
    return codes


def _letters(report: Report) -> str:
    from worker.desk.times import duration

    letters = report.letters
    if letters is None:
        return "unknown"
    if not letters.open:
        return "none open"
    oldest = "" if letters.oldest is None else f", the oldest {duration(report.at - letters.oldest)} old"
    return f"{letters.open} open of {counted(letters.causes, 'cause')}{oldest}; {letters.new} new"


def _ready(depth: Depth | None) -> str:
    return "unknown" if depth is None else str(depth.all)
