"""`cim-worker topology`: the queues and exchanges the workers need."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_table
from worker.cli.services import command_settings, open_broker

if TYPE_CHECKING:
    from worker.rabbit.connection import Connection
    from worker.rabbit.topology import Finding, Topology
    from worker.settings import Settings

_ENVIRONMENT = ("CIM_RABBITMQ_URL", "CIM_RETRY_DELAYS", "CIM_DELIVERY_LIMIT")
_WITH_MANAGEMENT = (*_ENVIRONMENT, "CIM_RABBITMQ_MANAGEMENT_URL")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Create or check the queues and exchanges of the public contract.", no_args_is_help=True)
    add_command(
        group,
        "apply",
        apply,
        "cim-worker topology apply",
        "cim-worker topology apply --json",
        environment=_ENVIRONMENT,
    )
    add_command(
        group,
        "check",
        check,
        "cim-worker topology check",
        "cim-worker topology check --json | jq '.findings[] | select(.problem)'",
        environment=_WITH_MANAGEMENT,
    )
    add_command(
        group,
        "export",
        export,
        "cim-worker topology export > definitions.json",
        "cim-worker topology export --broker-version 3.13 --vhost cim",
        environment=("CIM_RETRY_DELAYS", "CIM_DELIVERY_LIMIT", "CIM_JOURNAL_MAX_BYTES", "CIM_JOURNAL_MAX_DAYS"),
    )
    app.add_typer(group, name="topology")


def apply(as_json: _Json = False) -> None:
    """Create what is missing, change nothing that exists, and name every mismatch with its fix.

    May be run again at any time. Exit code 2 when something does not match.
    """
    _report(asyncio.run(_examine(command_settings(), create=True)), as_json=as_json)


def check(as_json: _Json = False) -> None:
    """Check without changing anything: exit code 2 when something is missing, unsafe or different; each has its fix.

    Any user of the virtual host will do. Bindings, policies that lose messages, and what the user may not compare are
    seen with CIM_RABBITMQ_MANAGEMENT_URL; without it they are not checked.
    """
    _report(asyncio.run(_examine(command_settings(), create=False)), as_json=as_json)


def export(
    broker_version: Annotated[
        str,
        typer.Option(help="RabbitMQ that will import it, such as 3.13: from 4.0 on dead letters need a limit of -1."),
    ] = "4.0",
    vhost: Annotated[str, typer.Option(help="Virtual host to put it into.")] = "cim",
) -> None:
    """Print the topology as a definitions file for RabbitMQ (`rabbitmqctl import_definitions`, `load_definitions`).

    Needs no broker. It has no users: deploy/rabbitmq/users.py makes those.
    """
    from worker.process.preflight import wanted_topology as wanted
    from worker.rabbit.definitions import definitions

    print_json(definitions(wanted(command_settings(), _version(broker_version)), vhost))


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isdecimal() for part in parts):
        raise CommandError(ExitCode.CONFIGURATION, f"{text!r} is no version; write it as 3.13 or 4.0.5")
    return tuple(map(int, parts))


def wanted_topology(settings: Settings, connection: Connection) -> Topology:
    """Return the topology of *settings* on the broker behind *connection*."""
    from worker.process.preflight import wanted_topology as wanted

    return wanted(settings, connection.server_version)


async def _examine(settings: Settings, *, create: bool) -> list[Finding]:
    from worker.rabbit import topology

    async with open_broker(settings) as connection:
        wanted = wanted_topology(settings, connection)
        if not create:
            return await _with_management(settings, wanted, await topology.check(connection, wanted))
        findings = await topology.apply(connection, wanted)
        await _ask_to_reconcile(connection)
        return findings


async def _ask_to_reconcile(connection: Connection) -> None:
    """Tell running workers, if there are any, that conversation exchanges may have lost their hub."""
    from worker.contract import RECONCILER
    from worker.ports import Outgoing
    from worker.rabbit.publisher import Publisher

    publisher = await Publisher.open(connection)
    await publisher.publish([Outgoing("", RECONCILER, RECONCILER, b"")])


async def _with_management(settings: Settings, wanted: Topology, findings: list[Finding]) -> list[Finding]:
    """Return *findings* and what the management API adds; why it does not, in their place."""
    from worker.rabbit.hazards import compare_unchecked, hazards, not_checked
    from worker.rabbit.management import Management, ManagementUnavailable
    from worker.rabbit.topology import Finding
    from worker.settings import virtual_host

    if settings.rabbitmq_management_url is None:
        return [*findings, *not_checked(wanted)]
    api = Management(
        settings.rabbitmq_management_url.get_secret_value(),
        virtual_host(settings.rabbitmq_url),
        ca_file=settings.rabbitmq_ca_file,
    )
    try:
        return [*await compare_unchecked(api, wanted, findings), *await hazards(api, wanted)]
    except ManagementUnavailable as error:
        fix = "correct CIM_RABBITMQ_MANAGEMENT_URL"
        return [*findings, Finding("management", "CIM_RABBITMQ_MANAGEMENT_URL", str(error), fix)]


def _report(findings: list[Finding], *, as_json: bool) -> None:
    problems = sum(finding.problem is not None for finding in findings)
    if as_json:
        rows = [asdict(one) for one in findings]
        print_json({"problems": problems, "findings": rows})
    else:
        print_table(
            None,
            ("kind", "name", "state", "fix"),
            [(one.kind, one.name, one.problem or one.unchecked or "ok", one.fix) for one in findings],
        )
    if problems:
        raise typer.Exit(ExitCode.CONFIGURATION)
