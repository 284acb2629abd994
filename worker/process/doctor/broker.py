"""What is wrong, or will be, with the broker: asked over AMQP as the worker does, and by the management API."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from worker import contract
from worker.addresses import address, user_name, virtual_host
from worker.process.doctor.finding import Area, Finding
from worker.process.preflight import missing_rights, wanted_topology
from worker.rabbit import topology
from worker.rabbit.errors import AccessRefused, BrokerError, ChannelClosed
from worker.rabbit.hazards import compare_unchecked, hazards, not_checked
from worker.rabbit.management import Management, ManagementUnavailable
from worker.rabbit.probing import SizeLimit, fresh_channel, try_configure, try_consume, try_publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from worker.rabbit.connection import Connection
    from worker.settings import Settings

_BROKER: Final = Area("broker")
_NEEDS_MANAGEMENT: Final = "set CIM_RABBITMQ_MANAGEMENT_URL"
_OLDEST: Final = (3, 10)
_MAINTAINED: Final = (4, 0)
_NEW_NACKS: Final = (4, 3)
_PATCHED: Final = {(4, 2): (4, 2, 6), (4, 3): (4, 3, 3)}
"""The first release of a series without a known hole."""
_SMALL_FRAME: Final = 8192
_EVENT_GROWTH: Final = 64 * 1024
"""What room, session and customer commonly add to a message that becomes an event."""
_LONGEST_IN_HAND_MS: Final = 600_000
"""A delivery may stay in hand five minutes in an outage; twice that is safe."""
_HEARTBEAT: Final = 60


async def examine_broker(connection: Connection, publishing: Connection, settings: Settings) -> list[Finding]:
    """Return what was found over AMQP and, where *settings* name it, by the management API."""
    findings = [_version(connection.server_version), *_connection(connection, settings)]
    wanted = wanted_topology(settings, connection.server_version)
    compared = await topology.check(connection, wanted)
    management = _management(settings)
    if management is not None:
        try:
            compared = [*await compare_unchecked(management, wanted, compared), *await hazards(management, wanted)]
            findings += await _by_management(management)
        except ManagementUnavailable as error:
            fix = "correct CIM_RABBITMQ_MANAGEMENT_URL; its user needs the tag monitoring"
            findings.append(_BROKER.problem("management API", str(error), fix))
            compared += not_checked(wanted)
    else:
        compared += not_checked(wanted)
        subjects = ("subscribers' queues that refuse", "alarms", "consumer timeout")
        findings += [_BROKER.unchecked(one, "over AMQP it cannot be seen", _NEEDS_MANAGEMENT) for one in subjects]
    findings += _of_topology(compared)
    findings += [await _rights(connection, publishing, settings), await _too_wide(connection, settings)]
    findings += [await _message_size(connection, settings), await _consumers(connection)]
    return findings


def _version(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version))
    patched = next((least for series, least in _PATCHED.items() if version[:2] == series), None)
    if version < _OLDEST:
        fix = "upgrade to RabbitMQ 4"
        return _BROKER.problem("version", f"{shown} knows no dead-lettering that cannot lose a message", fix)
    if patched is not None and version < patched:
        fix = f"upgrade to {'.'.join(map(str, patched))}"
        return _BROKER.risk("version", f"{shown} has known security holes", fix)
    if version < _MAINTAINED:
        detail = f"{shown} works, and gets no more corrections"
        return _BROKER.risk("version", detail, "plan the upgrade to RabbitMQ 4")
    effect = "; deliveries of a node that vanished are held back for a minute" if version >= _NEW_NACKS else ""
    return _BROKER.ok("version", shown + effect)


def _connection(connection: Connection, settings: Settings) -> Iterator[Finding]:
    heartbeat = connection.heartbeat_seconds
    if not heartbeat or heartbeat > _HEARTBEAT:
        shown = f"every {heartbeat} s" if heartbeat else "off"
        fix = "set CIM_RABBITMQ_HEARTBEAT_SECONDS to 20, and heartbeat in rabbitmq.conf not to 0"
        yield _BROKER.risk("heartbeat", f"{shown}: a broker that vanished is noticed late", fix)
    else:
        yield _BROKER.ok("heartbeat", f"every {heartbeat} s")
    frame = connection.raw.frame_max
    if frame < _SMALL_FRAME:
        fix = "raise frame_max in rabbitmq.conf to 131072"
        yield _BROKER.risk("frame size", f"{frame} bytes: reasons of dead letters are cut to fit", fix)
    else:
        yield _BROKER.ok("frame size", f"{frame} bytes")
    is_here = address(settings.rabbitmq_url).startswith(("localhost", "127."))
    if user_name(settings.rabbitmq_url) == "guest" and not is_here:
        yield _BROKER.risk("user", "guest has every right", "give the worker a user of its own (deploy/README.md)")
    if connection.blocked_reason is not None:
        fix = "free memory or disk of the broker"
        yield _BROKER.problem("publishing", f"blocked: {connection.blocked_reason}", fix)


def _of_topology(compared: list[topology.Finding]) -> Iterator[Finding]:
    for one in compared:
        what = f"{one.kind} {one.name}"
        if one.problem is not None:
            yield _BROKER.problem(what, one.problem, one.fix or "")
        elif one.unchecked is not None:
            yield _BROKER.unchecked(what, one.unchecked, one.fix or _NEEDS_MANAGEMENT)
        else:
            yield _BROKER.ok(what)


async def _rights(connection: Connection, publishing: Connection, settings: Settings) -> Finding:
    refused = await missing_rights(connection, publishing, settings, skip_missing=True)
    user = user_name(settings.rabbitmq_url)
    if refused:
        text = f"the user {user} may not {', nor '.join(refused)}"
        return _BROKER.problem("rights", text, "deploy/README.md lists the rights of each user")
    return _BROKER.ok("rights", f"the user {user} has all it needs")


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
        return _BROKER.ok("rights too wide", "none")
    user = user_name(settings.rabbitmq_url)
    text = f"the user {user} may {' and '.join(wide)} anything in the virtual host"
    return _BROKER.risk("rights too wide", text, "deploy/README.md lists the rights a worker needs")


async def _message_size(connection: Connection, settings: Settings) -> Finding:
    """Compare the broker's limit with ours: an event is larger than the message it was made of."""
    sizes = SizeLimit(connection)
    ours = settings.max_message_bytes
    if not await sizes.admits("", ours):
        text = f"the broker takes {sizes.proven} bytes, CIM_MAX_MESSAGE_BYTES is {ours}"
        return _BROKER.risk("message size", text, "raise max_message_size, or lower CIM_MAX_MESSAGE_BYTES")
    if not await sizes.admits("", ours + _EVENT_GROWTH):
        text = f"the broker takes {sizes.proven} bytes: events of messages near our {ours} are larger, and are stored"
        return _BROKER.risk("message size", text, "raise max_message_size, or lower CIM_MAX_MESSAGE_BYTES")
    return _BROKER.ok("message size", f"the broker takes ours of {ours} bytes and the events made of them")


async def _consumers(connection: Connection) -> Finding:
    try:
        async with fresh_channel(connection) as channel:
            queue = await channel.call("queue_declare", contract.INGRESS, passive=True)
    except BrokerError as error:
        return _BROKER.unchecked("consumers", str(error), "run `cim-worker topology apply`")
    if queue.consumer_count:
        text = f"{queue.consumer_count} of {contract.INGRESS}, {queue.message_count} messages ready"
        return _BROKER.ok("consumers", text)
    text = f"nobody consumes {contract.INGRESS}, {queue.message_count} messages ready"
    return _BROKER.risk("consumers", text, "start `cim-worker run`, or `cim-worker resume` a paused pool")


def _management(settings: Settings) -> Management | None:
    url = settings.rabbitmq_management_url
    if url is None:
        return None
    return Management(url.get_secret_value(), virtual_host(settings.rabbitmq_url), ca_file=settings.rabbitmq_ca_file)


async def _by_management(management: Management) -> list[Finding]:
    queues = await management.queues()
    return [
        *_refusing(queues, await management.queues_bound_to(contract.CONVERSATION_PREFIX)),
        *_timeouts(queues),
        *_alarms(await management.nodes()),
    ]


def _refusing(queues: list[dict[str, Any]], subscribed: set[str]) -> Iterator[Finding]:
    """Yield subscribers' queues that reject what is too much: their events are published again, then stored."""
    what, found = "subscribers' queues that refuse", False
    for queue in queues:
        if queue["name"] in subscribed and _setting(queue, "overflow") == "reject-publish" and _is_limited(queue):
            found = True
            text = f"{queue['name']} rejects events when it is full: all events of its conversations are then stored"
            yield _BROKER.risk(what, text, "let its overflow be drop-head, or take its limit away")
    if not found:
        yield _BROKER.ok(what, f"none of {len(subscribed)}")


def _timeouts(queues: list[dict[str, Any]]) -> Iterator[Finding]:
    ours = [queue for queue in queues if queue["name"].startswith("cim.")]
    limits = {queue["name"]: _setting(queue, "consumer-timeout") for queue in ours}
    short = {name: limit for name, limit in limits.items() if isinstance(limit, int) and limit < _LONGEST_IN_HAND_MS}
    for name, limit in short.items():
        text = f"{name}: {limit} ms, but in an outage a delivery is in hand for up to five minutes"
        yield _BROKER.risk("consumer timeout", text, f"let consumer-timeout be {_LONGEST_IN_HAND_MS} or more")
    if not short:
        yield _BROKER.ok("consumer timeout", "no queue of ours has a short one; the broker's own default is 30 minutes")


def _alarms(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    alarms = {"memory": "mem_alarm", "disk": "disk_free_alarm"}
    raised = [f"{kind} of {node['name']}" for node in nodes for kind, key in alarms.items() if node.get(key)]
    if raised:
        text = f"raised: {', '.join(raised)}; publishers wait"
        yield _BROKER.problem("alarms", text, "free it, or raise the watermark")
    else:
        yield _BROKER.ok("alarms", f"none on {len(nodes)} nodes")


def _setting(queue: Mapping[str, Any], name: str) -> Any:
    policy = queue.get("effective_policy_definition") or {}
    arguments = queue.get("arguments") or {}
    return arguments.get(f"x-{name}", policy.get(name) if isinstance(policy, dict) else None)


def _is_limited(queue: Mapping[str, Any]) -> bool:
    return any(_setting(queue, name) is not None for name in ("max-length", "max-length-bytes"))
