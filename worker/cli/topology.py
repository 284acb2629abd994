"""`cim-worker topology`: the queues and exchanges the workers need."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError, say
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_table, progress
from worker.cli.services import command_settings, every_node, open_broker
from worker.contract import OUTCOMES

if TYPE_CHECKING:
    from worker.rabbit.connection import Connection
    from worker.rabbit.topology import Finding, Topology
    from worker.settings import Settings

_ENVIRONMENT = ("CIM_RABBITMQ_URL", "CIM_RETRY_DELAYS", "CIM_DELIVERY_LIMIT", "CIM_INGRESS_ORDER")
_WITH_MANAGEMENT = (*_ENVIRONMENT, "CIM_RABBITMQ_MANAGEMENT_URL")
_ASK_SECONDS = 5.0
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
        "cim-worker topology apply --rebalance        spreads the leaders over the nodes",
        "cim-worker topology apply --migrate          shows what it would do, and asks",
        "cim-worker topology apply --partitions 4     may be run again with more",
        environment=_WITH_MANAGEMENT,
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


_Partitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=128,
        metavar="N",
        help="Spread the ingress over so many queues, by routing key; needs the plugin "
        "rabbitmq_consistent_hash_exchange. Their number can only grow.",
    ),
]


def apply(
    partitions: _Partitions = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Take queues with other arguments through to the wanted ones.")
    ] = False,
    rebalance: Annotated[
        bool, typer.Option("--rebalance", help="Have the broker spread the leaders of its queues over its nodes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before taking queues through.")] = False,
    as_json: _Json = False,
) -> None:
    """Create what is missing, change nothing that exists, and name every mismatch with its fix.

    May be run again at any time. Exit code 2 when something does not match.

    With several addresses in CIM_RABBITMQ_URL new queues are made on each node in turn: so their leaders are spread.
    With --rebalance leaders that stand unevenly move, those of all queues of the broker; needs
    CIM_RABBITMQ_MANAGEMENT_URL with the tag administrator.

    With --partitions the ingress exchange leads to N queues instead of one; publishers go on. Workers look for them
    when they connect: restart those that run. What is published to the queue cim.ingress by name they move on.

    With --migrate a queue whose arguments cannot be changed is made again as wanted, with its messages: what is
    published meanwhile waits in a second queue. Needs CIM_RABBITMQ_MANAGEMENT_URL with the tag policymaker, and that
    nobody takes from the queue: stop the workers first. The journal, a stream, is copied away and back. Interrupted, it
    is taken up again by the next run.
    """
    settings = command_settings()
    findings = asyncio.run(_examine(settings, create=True, partitions=partitions))
    if migrate:
        findings = _migrated(settings, findings, yes=yes, as_json=as_json)
    findings.append(asyncio.run(_leaders(settings, rebalance=rebalance)))
    _report(findings, as_json=as_json)


def _migrated(settings: Settings, findings: list[Finding], *, yes: bool, as_json: bool) -> list[Finding]:
    """Take through what can be, if that is confirmed, and return what is found afterwards."""
    movable = asyncio.run(_movable(settings, findings))
    if not movable:
        return findings
    if settings.rabbitmq_management_url is None and set(movable) != {OUTCOMES}:  # a stream needs no policy
        raise CommandError(
            ExitCode.CONFIGURATION, "--migrate needs CIM_RABBITMQ_MANAGEMENT_URL, its user a policymaker"
        )
    if not (yes or _is_confirmed(movable, as_json=as_json)):
        return [_left_as_it_is(one, movable) for one in findings]
    asyncio.run(_take_through(settings, movable))
    return asyncio.run(_examine(settings, create=True))


def _left_as_it_is(finding: Finding, movable: dict[str, tuple[str, int]]) -> Finding:
    """Return *finding* as a problem if its queue was not taken through, though it had to be."""
    if finding.kind != "queue" or finding.name not in movable:
        return finding
    return replace(finding, problem=movable[finding.name][0], fix="cim-worker topology apply --migrate --yes")


def _is_confirmed(movable: dict[str, tuple[str, int]], *, as_json: bool) -> bool:
    """Show what would be done and ask; False where nobody can be asked."""
    if as_json:
        return False
    rows = [(name, problem, count) for name, (problem, count) in movable.items()]
    print_table(None, ("queue", "now", "messages"), rows)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        say("nothing was changed: --yes takes these queues through; stop the workers before")
        return False
    return typer.confirm("Are the workers stopped, and shall these queues be made again, messages kept?", err=True)


async def _movable(settings: Settings, findings: list[Finding]) -> dict[str, tuple[str, int]]:
    """Return the queues that differ and can be taken through, each with what differs and its messages.

    A queue that an interrupted run left behind counts as one that differs.
    """
    from worker.rabbit.migration import spare_name
    from worker.rabbit.topology import ready

    problems = {one.name: one.problem for one in findings if one.kind == "queue"}
    found = {}
    async with open_broker(settings) as connection:
        for queue in (await wanted_topology(settings, connection)).queues:
            spare = await ready(connection, spare_name(queue.name))
            problem = problems.get(queue.name) or (None if spare is None else "an interrupted migration")
            if problem is not None:
                found[queue.name] = problem, (await ready(connection, queue.name) or 0) + (spare or 0)
    return found


async def _take_through(settings: Settings, movable: dict[str, tuple[str, int]]) -> None:
    from worker.rabbit.errors import TopologyMismatch
    from worker.rabbit.management import Management, ManagementUnavailable
    from worker.rabbit.migration import Migration
    from worker.rabbit.stream_migration import StreamMigration, is_stream

    management = Management.of(settings)
    async with open_broker(settings) as connection:
        queues = {queue.name: queue for queue in (await wanted_topology(settings, connection)).queues}
        with progress() as display:
            for name, (_, count) in movable.items():
                queue, moved = queues[name], partial(display.advance, display.add_task(name, total=2 * count))
                migration = (
                    StreamMigration(connection, on_moved=moved)
                    if management is None or is_stream(queue)
                    else Migration(connection, management, on_moved=moved)
                )
                try:
                    await migration.take_through(queue)
                except (ManagementUnavailable, TopologyMismatch) as error:
                    raise CommandError(ExitCode.CONFIGURATION, str(error)) from error


def check(as_json: _Json = False) -> None:
    """Check without changing anything: exit code 2 when something is missing, unsafe or different; each has its fix.

    Any user of the virtual host will do. Bindings, policies that lose messages, and what the user may not compare are
    seen with CIM_RABBITMQ_MANAGEMENT_URL; without it they are not checked.
    """
    _report(asyncio.run(_examine(command_settings(), create=False)), as_json=as_json)


def export(
    broker_version: Annotated[
        str,
        typer.Option(
            help="RabbitMQ that will import it, such as 3.13: from 4.0 on dead letters need a limit of -1, "
            "from 4.3 on there is a policy for nodes that die."
        ),
    ] = "4.0",
    vhost: Annotated[str, typer.Option(help="Virtual host to put it into.")] = "cim",
    partitions: _Partitions = None,
) -> None:
    """Print the topology as a definitions file for RabbitMQ (`rabbitmqctl import_definitions`, `load_definitions`).

    Needs no broker. It has no users: deploy/rabbitmq/users.py makes those.
    """
    from worker.process.preflight import wanted_topology as wanted
    from worker.rabbit.definitions import definitions

    if not vhost:
        raise CommandError(ExitCode.CONFIGURATION, "--vhost: the name is empty; RabbitMQ's default is /")
    version = _version(broker_version)
    print_json(definitions(wanted(command_settings(), version, partitions or 0), vhost, version))


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isdecimal() for part in parts):
        raise CommandError(ExitCode.CONFIGURATION, f"{text!r} is no version; write it as 3.13 or 4.0.5")
    return (*map(int, parts), 0)[: max(2, len(parts))]  # 4 is 4.0, and not older than that


async def wanted_topology(settings: Settings, connection: Connection, partitions: int | None = None) -> Topology:
    """Return the topology of *settings* on the broker behind *connection*; None: with the partitions that it has.

    Raises `CommandError` for fewer: messages wait in those that there are.
    """
    from worker.process.preflight import wanted_topology as wanted
    from worker.rabbit.topology import found_partitions

    found = await found_partitions(connection)
    if partitions is not None and partitions < found:
        text = f"the ingress has {found} partitions, and they only grow: --partitions {found} or more"
        raise CommandError(ExitCode.CONFIGURATION, text)
    return wanted(settings, connection.server_version, partitions or found)


async def _leaders(settings: Settings, *, rebalance: bool) -> Finding:
    """Return where the leaders are; with *rebalance*, how they moved."""
    from worker.rabbit import leaders
    from worker.rabbit.management import Management, ManagementUnavailable
    from worker.rabbit.topology import Finding

    management, fix = Management.of(settings), "set CIM_RABBITMQ_MANAGEMENT_URL"
    if management is None and rebalance:
        raise CommandError(
            ExitCode.CONFIGURATION, "--rebalance needs CIM_RABBITMQ_MANAGEMENT_URL, its user an administrator"
        )
    if management is None:
        return Finding("leaders", "queues", unchecked="not checked: over AMQP they cannot be seen", fix=fix)
    try:
        if not rebalance:
            return leaders.row(await leaders.look(management))
        before, after = await leaders.rebalance(management)
    except ManagementUnavailable as error:
        if rebalance:
            raise CommandError(ExitCode.CONFIGURATION, f"nothing was moved: {error}") from error
        return Finding("leaders", "queues", unchecked=str(error), fix="correct CIM_RABBITMQ_MANAGEMENT_URL")
    if not leaders.is_even(after):
        return leaders.row(after)
    moved = "nothing to move" if before == after else f"were: {leaders.in_words(before)}"
    return Finding("leaders", "queues", unchecked=f"ok: {leaders.in_words(after)}; {moved}")


async def _examine(settings: Settings, *, create: bool, partitions: int | None = None) -> list[Finding]:
    from worker.rabbit import topology
    from worker.rabbit.errors import TopologyMismatch

    async with open_broker(settings) as connection:
        wanted = await wanted_topology(settings, connection, partitions)
        if not create:
            return await _with_management(settings, wanted, await topology.check(connection, wanted))
        try:
            async with every_node(settings) as nodes:
                findings = await topology.apply(connection, wanted, nodes=nodes)
        except TopologyMismatch as error:
            raise CommandError(ExitCode.CONFIGURATION, str(error)) from error
        await _ask_to_reconcile(connection)
        return findings


async def _ask_to_reconcile(connection: Connection) -> None:
    """Tell running workers, if there are any, that conversation exchanges may have lost their hub."""
    from worker.contract import RECONCILER
    from worker.ports import Outgoing
    from worker.rabbit.publisher import Publisher

    publisher = await Publisher.open(connection)
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await publisher.publish([Outgoing("", RECONCILER, RECONCILER, b"")])
    except TimeoutError:  # an alarm, which has been said
        say("running workers were not asked to compare their exchanges; run it again when that is over")


async def _with_management(settings: Settings, wanted: Topology, findings: list[Finding]) -> list[Finding]:
    """Return *findings* and what the management API adds; why it does not, in their place."""
    from worker.rabbit.hazards import compare_unchecked, hazards, not_checked
    from worker.rabbit.management import Management, ManagementUnavailable
    from worker.rabbit.topology import Finding

    api = Management.of(settings)
    if api is None:
        return [*findings, *not_checked(wanted)]
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
