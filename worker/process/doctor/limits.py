"""What the broker's version, limits and policies mean for the work. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from worker.process.doctor.finding import Area

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.process.doctor.finding import Finding

BROKER: Final = Area("broker")
EVENT_GROWTH: Final = 64 * 1024
"""What room, session and customer commonly add to a message that becomes an event, in bytes."""
_OLDEST: Final = (3, 10)
_MAINTAINED: Final = (4, 0)
_KEEPS_OF_VANISHED: Final = (4, 3)
"""From here on, deliveries of a node that vanished are held back for a minute, unless a policy says otherwise."""
_PATCHED: Final = {(4, 2): (4, 2, 6), (4, 3): (4, 3, 3)}
"""The first release of a series without a known hole."""
_SMALL_FRAME: Final = 8192
_HEARTBEAT: Final = 60
_LONGEST_IN_HAND_MS: Final = 600_000
"""A delivery may stay in hand five minutes in an outage; twice that is safe."""
_LONGEST_KEPT_MS: Final = 10_000
_REFUSING: Final = "subscribers' queues that refuse"
_VANISHED: Final = "deliveries of a node that dies"


def subjects_of_management(of_broker: tuple[int, ...]) -> list[str]:
    """Return what can be judged with the management API alone."""
    late = [_VANISHED] if of_broker >= _KEEPS_OF_VANISHED else []
    return [_REFUSING, "alarms", "consumer timeout", *late]


def version(of_broker: tuple[int, ...]) -> Finding:
    """Judge the broker's version."""
    shown = ".".join(map(str, of_broker))
    patched = next((least for series, least in _PATCHED.items() if of_broker[:2] == series), None)
    if of_broker < _OLDEST:
        fix = "upgrade to RabbitMQ 4"
        return BROKER.problem("version", f"{shown} knows no dead-lettering that cannot lose a message", fix)
    if patched is not None and of_broker < patched:
        fix = f"upgrade to {'.'.join(map(str, patched))}"
        return BROKER.risk("version", f"{shown} has known security holes", fix)
    if of_broker < _MAINTAINED:
        detail = f"{shown} works, and gets no more corrections"
        return BROKER.risk("version", detail, "plan the upgrade to RabbitMQ 4")
    return BROKER.ok("version", shown)


def heartbeat(seconds: int | None) -> Finding:
    """Judge the negotiated interval; 0 or None: there is none."""
    if seconds and seconds <= _HEARTBEAT:
        return BROKER.ok("heartbeat", f"every {seconds} s")
    shown = f"every {seconds} s" if seconds else "off"
    fix = "set CIM_RABBITMQ_HEARTBEAT_SECONDS to 20, and heartbeat in rabbitmq.conf not to 0"
    return BROKER.risk("heartbeat", f"{shown}: a broker that vanished is noticed late", fix)


def frame_size(frame_max: int) -> Finding:
    """Judge the negotiated size of a frame, in bytes: reasons of letters are headers, and headers are one frame."""
    if frame_max >= _SMALL_FRAME:
        return BROKER.ok("frame size", f"{frame_max} bytes")
    fix = "raise frame_max in rabbitmq.conf to 131072"
    return BROKER.risk("frame size", f"{frame_max} bytes: reasons of dead letters are cut to fit", fix)


def message_size(limit: int | None, ours: int) -> Finding:
    """Compare the broker's limit with ours; None: it takes our largest message and the event made of it."""
    fix = "raise max_message_size, or lower CIM_MAX_MESSAGE_BYTES"
    if limit is None:
        return BROKER.ok("message size", f"the broker takes ours of {ours} bytes and the events made of them")
    if limit < ours:
        return BROKER.risk("message size", f"the broker takes {limit} bytes, CIM_MAX_MESSAGE_BYTES is {ours}", fix)
    text = f"the broker takes {limit} bytes: events of messages near our {ours} are larger, and are stored"
    return BROKER.risk("message size", text, fix)


def consumer_timeouts(queues: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield queues that take back a delivery sooner than an outage lets us finish it."""
    limits = {queue["name"]: _setting(queue, "consumer-timeout") for queue in _ours(queues)}
    short = {name: limit for name, limit in limits.items() if isinstance(limit, int) and limit < _LONGEST_IN_HAND_MS}
    for name, limit in short.items():
        text = f"{name}: {limit} ms, but in an outage a delivery is in hand for up to five minutes"
        yield BROKER.risk("consumer timeout", text, f"let consumer-timeout be {_LONGEST_IN_HAND_MS} or more")
    if not short:
        yield BROKER.ok("consumer timeout", "no queue of ours has a short one; the broker's own default is 30 minutes")


def disconnected_consumers(
    of_broker: tuple[int, ...], nodes: Sequence[Mapping[str, Any]], queues: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Yield whether what a dead node had handed out comes back soon; nothing where the broker does not keep it."""
    if of_broker < _KEEPS_OF_VANISHED:
        return
    if len(nodes) == 1:
        yield BROKER.ok(_VANISHED, "there is one node")
        return
    timeouts = {queue["name"]: _setting(queue, "consumer-disconnected-timeout") for queue in _ours(queues)}
    late = [name for name, limit in timeouts.items() if not isinstance(limit, int) or limit > _LONGEST_KEPT_MS]
    if late:
        text = f"others get them a minute late: {', '.join(late)}"
        definition = '{"consumer-disconnected-timeout": 2000}'
        fix = f"rabbitmqctl set_policy --apply-to quorum_queues cim-disconnected '^cim\\.' '{definition}'"
        yield BROKER.risk(_VANISHED, text, f"{fix} (deploy/rabbitmq/README.md)")
    else:
        yield BROKER.ok(_VANISHED, "others get them within ten seconds")


def alarms(nodes: Sequence[Mapping[str, Any]]) -> Finding:
    """Name the alarms in force."""
    kinds = {"memory": "mem_alarm", "disk": "disk_free_alarm"}
    raised = [f"{kind} of {node['name']}" for node in nodes for kind, key in kinds.items() if node.get(key)]
    if raised:
        text = f"raised: {', '.join(raised)}; publishers wait"
        return BROKER.problem("alarms", text, "free it, or raise the watermark")
    silent = [str(node["name"]) for node in nodes if not set(kinds.values()) <= set(node)]
    if silent:
        return BROKER.unchecked("alarms", f"{', '.join(silent)} does not say yet", "run it again in ten seconds")
    return BROKER.ok("alarms", f"none on {len(nodes)} nodes")


def refusing_subscribers(queues: Sequence[Mapping[str, Any]], subscribed: set[str]) -> Iterator[Finding]:
    """Yield subscribers' queues that reject what is too much: their events are published again, then stored."""
    found = False
    for queue in queues:
        if queue["name"] in subscribed and _setting(queue, "overflow") == "reject-publish" and _is_limited(queue):
            found = True
            text = f"{queue['name']} rejects events when it is full: all events of its conversations are then stored"
            yield BROKER.risk(_REFUSING, text, "let its overflow be drop-head, or take its limit away")
    if not found:
        yield BROKER.ok(_REFUSING, f"none of {len(subscribed)}")


def _ours(queues: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return our queues that hand out deliveries to be acknowledged: a stream takes nothing back."""
    return [one for one in queues if one["name"].startswith("cim.") and _setting(one, "queue-type") == "quorum"]


def _setting(queue: Mapping[str, Any], name: str) -> Any:
    policy = queue.get("effective_policy_definition") or {}
    arguments = queue.get("arguments") or {}
    return arguments.get(f"x-{name}", policy.get(name) if isinstance(policy, dict) else None)


def _is_limited(queue: Mapping[str, Any]) -> bool:
    return any(_setting(queue, name) is not None for name in ("max-length", "max-length-bytes"))
