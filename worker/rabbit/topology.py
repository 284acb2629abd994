"""Every exchange, queue and binding of the public contract, and how to apply and check them.

publishers ──▶ (cim.ingress) ──▶ [cim.ingress] ──▶ worker ──▶ (cim.conversations) ──▶ (conversation.<id>) ──▶ …
                                    ▲      └─ delivery limit ─▶ (cim.dead-letters) ──▶ [cim.dead-letters]
                                    ├─ TTL ─ [cim.ingress.retry.<delay>] ◀─ worker
                                    │        [cim.ingress.waiting] ◀──────▶ worker
platform ──▶ (cim.conversation-events) ──▶ [cim.conversation-events] ──▶ worker
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.contract import CONVERSATION_EVENTS, DEAD_LETTERS, HUB, INGRESS, PARKED, WAITING, retry_queue
from worker.rabbit.errors import NOT_FOUND, PRECONDITION_FAILED, AccessRefused, ChannelClosed
from worker.rabbit.probing import fresh_channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.rabbit.connection import Connection

_MISSING = "missing"
_MAY_NOT_LOOK = "this user may not look at it"
_MAY_NOT_DECLARE = "this user may not declare it"
_FIRST_WITH_DEFAULT_DELIVERY_LIMIT = (4, 0)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue and the exchanges it is bound to with key `#`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    bound_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """What has to exist. Build it with `wanted`."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing. *problem* is None when it is as wanted; otherwise *fix* says what to do."""

    kind: str
    name: str
    problem: str | None = None
    fix: str | None = None

    @property
    def is_missing(self) -> bool:
        """Whether it does not exist."""
        return self.problem == _MISSING

    @property
    def is_unchecked(self) -> bool:
        """Whether it could not be compared for lack of permission, as is right for a worker's user."""
        return self.problem in {_MAY_NOT_LOOK, _MAY_NOT_DECLARE}


def wanted(retry_tiers: tuple[tuple[str, int], ...], delivery_limit: int, broker_version: tuple[int, ...]) -> Topology:
    """Return the topology for *retry_tiers* (delay name, seconds) on a broker of *broker_version*.

    All queues are quorum queues that dead-letter at least once and refuse publishes instead of dropping when full:
    the default, at most once, loses messages silently when the target is away.
    """
    to_dead_letters = {"x-dead-letter-exchange": DEAD_LETTERS, **_SAFE, "x-delivery-limit": delivery_limit}
    tiers = tuple(
        Queue(
            retry_queue(delay),
            {
                "x-message-ttl": seconds * 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": INGRESS,
                **_SAFE,
            },
        )
        for delay, seconds in retry_tiers
    )
    # From 4.0 on, a queue without a limit of its own drops a message at its 21st return: looking would destroy.
    keep_for_ever = {"x-delivery-limit": -1} if broker_version >= _FIRST_WITH_DEFAULT_DELIVERY_LIMIT else {}
    return Topology(
        exchanges=(
            Exchange(INGRESS, "topic"),
            Exchange(HUB, "direct"),
            Exchange(CONVERSATION_EVENTS, "topic"),
            Exchange(DEAD_LETTERS, "fanout"),
        ),
        queues=(
            Queue(
                DEAD_LETTERS,
                {"x-queue-type": "quorum", "x-overflow": "reject-publish", **keep_for_ever},
                (DEAD_LETTERS,),
            ),
            Queue(PARKED, {"x-queue-type": "quorum", "x-overflow": "reject-publish", **keep_for_ever}),
            Queue(INGRESS, to_dead_letters, (INGRESS,)),
            Queue(WAITING, to_dead_letters),
            *tiers,
            # One consumer at a time keeps lifecycle events in order; the others stand by.
            Queue(CONVERSATION_EVENTS, {**to_dead_letters, "x-single-active-consumer": True}, (CONVERSATION_EVENTS,)),
        ),
    )


_SAFE: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


async def apply(connection: Connection, topology: Topology) -> list[Finding]:
    """Create what is missing; change nothing that exists. Idempotent.

    Returns one finding for each thing; a mismatch is reported, not raised, so that one run shows them all.
    """
    findings = [await _declare_exchange(connection, exchange) for exchange in topology.exchanges]
    for queue in topology.queues:
        finding = await _declare_queue(connection, queue)
        findings.append(finding)
        if finding.problem is None:
            findings += [await _bind(connection, queue.name, exchange) for exchange in queue.bound_to]
    return findings


async def check(connection: Connection, topology: Topology) -> list[Finding]:
    """Compare without changing anything. Bindings cannot be seen over AMQP and are not reported.

    A thing that exists is declared again with the wanted arguments, which AMQP defines as a comparison.
    """
    findings = []
    for exchange in topology.exchanges:
        missing = await _missing(connection, "exchange", exchange.name)
        findings.append(missing or await _declare_exchange(connection, exchange))
    for queue in topology.queues:
        missing = await _missing(connection, "queue", queue.name)
        findings.append(missing or await _declare_queue(connection, queue))
    return findings


async def _missing(connection: Connection, kind: str, name: str) -> Finding | None:
    try:
        async with fresh_channel(connection) as channel:
            await channel.call(f"{kind}_declare", name, passive=True)
    except ChannelClosed as error:
        if error.reply_code == NOT_FOUND:
            return Finding(kind, name, _MISSING, "run `cim-worker topology apply`")
        raise
    except AccessRefused:
        return Finding(kind, name, _MAY_NOT_LOOK, f"grant the user any permission on {name}")
    return None


async def _declare_exchange(connection: Connection, exchange: Exchange) -> Finding:
    return await _try(
        connection, "exchange", exchange.name, "exchange_declare", exchange.name, exchange.type, durable=True
    )


async def _declare_queue(connection: Connection, queue: Queue) -> Finding:
    return await _try(
        connection, "queue", queue.name, "queue_declare", queue.name, durable=True, arguments=queue.arguments
    )


async def _bind(connection: Connection, queue: str, exchange: str) -> Finding:
    return await _try(connection, "binding", f"{exchange} → {queue}", "queue_bind", queue, exchange, routing_key="#")


async def _try(
    connection: Connection,
    kind: str,
    name: str,
    method: str,
    /,
    *args: Any,
    **kwargs: Any,
) -> Finding:
    try:
        async with fresh_channel(connection) as channel:
            await channel.call(method, *args, **kwargs)
    except ChannelClosed as error:
        if error.reply_code != PRECONDITION_FAILED:
            raise
        return Finding(kind, name, _difference(error.reply_text), _fix(kind, name))
    except AccessRefused:
        return Finding(kind, name, _MAY_NOT_DECLARE, f"use a user with configure permission on {name}")
    return Finding(kind, name)


def _difference(text: str) -> str:
    return text.removeprefix("PRECONDITION_FAILED - ").partition(" in vhost")[0] + _values(text)


def _values(text: str) -> str:
    _, found, values = text.partition(": received ")
    return f": wanted {values.replace('but current is', 'but it has')}" if found else ""


def _fix(kind: str, name: str) -> str:
    if kind == "queue":
        return f"set the setting to what it has, or let {name} run empty, delete it and run `cim-worker topology apply`"
    return f"delete {name} while nobody publishes, and run `cim-worker topology apply`"


def problems(findings: list[Finding]) -> Iterator[Finding]:
    """Yield only what is not as wanted."""
    return (finding for finding in findings if finding.problem is not None)
