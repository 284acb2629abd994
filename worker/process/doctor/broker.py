"""What is wrong, or will be, with the broker: asked over AMQP as the worker does, and by the management API."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from worker import contract
from worker.addresses import is_local, user_name
from worker.flow.tasks import cancel_and_wait
from worker.process.doctor import limits
from worker.process.doctor.limits import BROKER
from worker.process.preflight import missing_rights, wanted_topology
from worker.rabbit import topology
from worker.rabbit.errors import AccessRefused, BrokerError, ChannelClosed
from worker.rabbit.hazards import compare_unchecked, hazards, not_checked
from worker.rabbit.management import Management, ManagementUnavailable
from worker.rabbit.probing import SizeLimit, fresh_channel, try_configure, try_consume, try_publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from worker.process.doctor.finding import Finding
    from worker.rabbit.connection import Connection
    from worker.settings import Settings

_NEEDS_MANAGEMENT: Final = "set CIM_RABBITMQ_MANAGEMENT_URL"
_FREE: Final = "free memory or disk of the broker"
_ANSWER_SECONDS: Final = 10.0


async def examine_broker(connection: Connection, publishing: Connection, settings: Settings) -> list[Finding]:
    """Return what was found over AMQP and, where *settings* name it, by the management API."""
    findings = [*_connection(connection, settings)]
    partitions = await topology.found_partitions(connection)
    wanted = wanted_topology(settings, connection.server_version, partitions)
    compared = await topology.check(connection, wanted)
    management = Management.of(settings)
    if management is not None:
        try:
            compared = [*await compare_unchecked(management, wanted, compared), *await hazards(management, wanted)]
            findings += await _by_management(management, connection.server_version)
        except ManagementUnavailable as error:
            fix = "correct CIM_RABBITMQ_MANAGEMENT_URL; its user needs the tag monitoring"
            findings.append(BROKER.problem("management API", str(error), fix))
            compared += not_checked(wanted)
    else:
        compared += not_checked(wanted)
        subjects = limits.subjects_of_management(connection.server_version)
        findings += [BROKER.unchecked(one, "over AMQP it cannot be seen", _NEEDS_MANAGEMENT) for one in subjects]
    findings += _of_topology(compared)
    findings.append(await _consumers(connection, partitions))
    return [*findings, *await _by_publishing(connection, publishing, settings, partitions)]


def _connection(connection: Connection, settings: Settings) -> Iterator[Finding]:
    yield limits.version(connection.server_version)
    yield limits.heartbeat(connection.heartbeat_seconds)
    yield limits.frame_size(connection.raw.frame_max)
    if user_name(settings.rabbitmq_url) == "guest" and not is_local(settings.rabbitmq_url):
        yield BROKER.risk("user", "guest has every right", "give the worker a user of its own (deploy/README.md)")


def _of_topology(compared: list[topology.Finding]) -> Iterator[Finding]:
    for one in compared:
        what = f"{one.kind} {one.name}"
        if one.kind == "leaders" and one.unchecked is not None and one.fix is not None:
            yield BROKER.risk(what, one.unchecked, one.fix)
        elif one.problem is not None:
            yield BROKER.problem(what, one.problem, one.fix or "")
        elif one.unchecked is not None:
            yield BROKER.unchecked(what, one.unchecked, one.fix or _NEEDS_MANAGEMENT)
        else:
            yield BROKER.ok(what)


async def _by_publishing(
    connection: Connection, publishing: Connection, settings: Settings, partitions: int
) -> list[Finding]:
    """Return what is learned from publishes that are rolled back; a broker with an alarm does not even read them."""
    questions: dict[str, Callable[[], Coroutine[Any, Any, Finding]]] = {
        "rights": lambda: _rights(connection, publishing, settings, partitions),
        "rights too wide": lambda: _too_wide(connection, settings),
        "message size": lambda: _message_size(connection, settings),
    }
    blocked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    for one in (connection, publishing):
        one.on_blocked_change = lambda reason: None if blocked.done() or reason is None else blocked.set_result(reason)
    findings = []
    for what, ask in questions.items():
        found = None if blocked.done() else await _answer(ask(), blocked)
        findings.append(found or BROKER.unchecked(what, "the broker does not answer what publishes", _FREE))
    if blocked.done():
        findings.append(BROKER.problem("publishing", f"blocked: {blocked.result()}", _FREE))
    return findings


async def _answer(step: Coroutine[Any, Any, Finding], blocked: asyncio.Future[str]) -> Finding | None:
    """Return what *step* found; None when the broker blocked it, or gave no answer."""
    task = asyncio.create_task(step)
    ends: set[asyncio.Future[Any]] = {task, blocked}
    await asyncio.wait(ends, timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    await cancel_and_wait([task])
    return None


async def _rights(connection: Connection, publishing: Connection, settings: Settings, partitions: int) -> Finding:
    refused = await missing_rights(connection, publishing, settings, partitions, skip_missing=True)
    user = user_name(settings.rabbitmq_url)
    if refused:
        text = f"the user {user} may not {', nor '.join(refused)}"
        return BROKER.problem("rights", text, "deploy/README.md lists the rights of each user")
    return BROKER.ok("rights", f"the user {user} has all it needs")


async def _too_wide(connection: Connection, settings: Settings) -> Finding:
    """Ask for rights nobody needs, on names that nothing has: what is not refused is too wide."""
    nothing = f"doctor-{secrets.token_hex(8)}"
    questions: dict[str, Callable[[], Awaitable[None]]] = {
        "configure": lambda: try_configure(connection, nothing),
        "write": lambda: try_publish(connection, nothing),
        "read": lambda: try_consume(connection, nothing),
    }
    wide = []
    for right, ask in questions.items():
        try:
            await ask()
        except AccessRefused:
            continue
        except ChannelClosed:  # it does not exist, which is asked after the right
            pass
        wide.append(right)
    if not wide:
        return BROKER.ok("rights too wide", "none")
    user = user_name(settings.rabbitmq_url)
    text = f"the user {user} may {' and '.join(wide)} anything in the virtual host"
    return BROKER.risk("rights too wide", text, "deploy/README.md lists the rights a worker needs")


async def _message_size(connection: Connection, settings: Settings) -> Finding:
    """Ask whether the broker takes our largest message, and the event made of it, which is larger."""
    sizes, ours = SizeLimit(connection), settings.max_message_bytes
    takes_all = await sizes.admits("", ours + limits.EVENT_GROWTH)
    return limits.message_size(None if takes_all else sizes.proven, ours)


async def _consumers(connection: Connection, partitions: int) -> Finding:
    try:
        queues = {name: await _state(connection, name) for name in contract.ingress_queues(partitions)}
    except BrokerError as error:
        return BROKER.unchecked("consumers", str(error), "run `cim-worker topology apply`")
    consumers, ready = (sum(queue[place] for queue in queues.values()) for place in (0, 1))
    idle = [name for name, queue in queues.items() if not queue[0]]
    if not idle:
        among = f" and its {partitions} partitions" if partitions else ""
        return BROKER.ok("consumers", f"{consumers} of {contract.INGRESS}{among}, {ready} messages ready")
    text = f"nobody consumes {', '.join(idle)}, {sum(queues[name][1] for name in idle)} messages ready"
    fix = "start `cim-worker run`, or `cim-worker resume` a paused pool"
    if len(idle) < len(queues):
        fix = "restart the workers: they look for partitions when they connect"
    return BROKER.risk("consumers", text, fix)


async def _state(connection: Connection, queue: str) -> tuple[int, int]:
    """Return how many consumers and ready messages a queue has."""
    async with fresh_channel(connection) as channel:
        answer = await channel.call("queue_declare", queue, passive=True)
        return int(answer.consumer_count), int(answer.message_count)


async def _by_management(management: Management, version: tuple[int, ...]) -> list[Finding]:
    queues, nodes = await management.queues(), await management.nodes()
    return [
        *limits.refusing_subscribers(queues, await management.queues_bound_to(contract.CONVERSATION_PREFIX)),
        *limits.consumer_timeouts(queues),
        *limits.disconnected_consumers(version, nodes, queues),
        limits.alarms(nodes),
    ]
