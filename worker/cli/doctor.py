"""`cim-worker doctor`: looks at broker, store and machine as a worker would, and names every fix."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_line, print_table, progress
from worker.cli.services import command_settings, open_broker, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.process.doctor.finding import Finding
    from worker.settings import Settings

_ENVIRONMENT = ("CIM_RABBITMQ_URL", "CIM_RABBITMQ_MANAGEMENT_URL", "CIM_MONGODB_URI")
_Canary = Annotated[bool, typer.Option("--canary", help="Also send a harmless message through a retry tier.")]
_All = Annotated[bool, typer.Option("--all", "-a", help="Show what is well, too.")]
_Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 for warnings, too.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "doctor",
        doctor,
        "cim-worker doctor",
        "cim-worker doctor --canary",
        "cim-worker doctor --json | jq '.findings[] | select(.state == \"problem\")'",
        environment=_ENVIRONMENT,
    )


def doctor(canary: _Canary = False, everything: _All = False, strict: _Strict = False, as_json: _Json = False) -> None:
    """Examine broker, store and machine with the settings and rights of a worker; each finding has its fix.

    Changes nothing. The canary is a message without an anchor: it goes from the first retry tier to ingress, dies
    there, is recorded, and its letter is deleted; no conversation sees it. Exit code 2 when there is a problem, 3 when
    the broker cannot be reached, 4 when the store cannot; warnings and what could not be checked are 0.
    """
    settings = command_settings()
    findings, unreachable = asyncio.run(_examine(settings, canary=canary))
    _report(findings, everything=everything, as_json=as_json)
    code = unreachable or _exit_code(findings, strict=strict)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


async def _examine(settings: Settings, *, canary: bool) -> tuple[list[Finding], ExitCode | None]:
    """Return all findings, and the code of what could not be reached; the rest is examined nevertheless."""
    from worker.process.doctor.machine import examine_machine

    steps = {"broker": _broker, "store": _store, **({"canary": _canary} if canary else {})}
    findings, unreachable = await examine_machine(settings), None
    with progress() as display:
        task = display.add_task("examining", total=len(steps))
        for area, step in steps.items():
            display.update(task, description=f"examining: {area}")
            try:
                findings += await step(settings)
            except CommandError as error:
                findings.append(_unreachable(area, error))
                unreachable = unreachable or error.exit_code
            display.advance(task)
    return findings, unreachable


async def _broker(settings: Settings) -> list[Finding]:
    from worker.process.doctor.broker import examine_broker

    async with open_broker(settings) as connection, open_broker(settings) as publishing:
        return await examine_broker(connection, publishing, settings)


async def _store(settings: Settings) -> list[Finding]:
    from worker.process.doctor.store import examine_store

    async with open_store(settings) as store:
        return await examine_store(store)


async def _canary(settings: Settings) -> list[Finding]:
    from worker.process.doctor.canary import send_canary

    async with open_broker(settings) as connection, open_store(settings) as store:
        return await send_canary(connection, store, settings)


def _unreachable(area: str, error: CommandError) -> Finding:
    from worker.process.doctor.finding import Finding, State

    text, _, fix = str(error).rpartition("; ")
    return Finding(area, "connection", State.PROBLEM, text or str(error), fix)


def _exit_code(findings: Sequence[Finding], *, strict: bool) -> ExitCode:
    from worker.process.doctor.finding import State

    bad = {State.PROBLEM, State.WARNING} if strict else {State.PROBLEM}
    return ExitCode.CONFIGURATION if any(one.state in bad for one in findings) else ExitCode.OK


def _report(findings: Sequence[Finding], *, everything: bool, as_json: bool) -> None:
    from worker.process.doctor.finding import State

    counts = {state: sum(one.state is state for one in findings) for state in State}
    if as_json:
        rows = [
            {"area": one.area, "what": one.what, "state": one.state, "detail": one.detail, "fix": one.fix}
            for one in findings
        ]
        print_json({**{state.value.replace(" ", "_"): count for state, count in counts.items()}, "findings": rows})
        return
    worst_first = sorted(findings, key=lambda one: list(State).index(one.state), reverse=True)
    shown = [one for one in worst_first if everything or one.state is not State.OK]
    if shown:
        columns = ("state", "area", "what", "found", "fix")
        print_table(None, columns, [(one.state.value, one.area, one.what, one.detail, one.fix) for one in shown])
    print_line(", ".join(f"{count} {state.value}" for state, count in counts.items()))
