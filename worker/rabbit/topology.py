"""Every exchange, queue and binding of the public contract, and how to apply and check them.

publishers ──▶ (cim.ingress) ──▶ [cim.ingress] ──▶ worker ──▶ (cim.conversations) ──▶ (conversation.<id>) ──▶ …
                                    ▲      └─ delivery limit ─▶ (cim.dead-letters) ──▶ [cim.dead-letters]
                                    ├─ TTL ─ [cim.ingress.retry.<delay>] ◀─ worker
                                    │        [cim.ingress.waiting] ◀──────▶ worker ──▶ [cim.outcomes]
platform ──▶ (cim.conversation-events) ──▶ [cim.conversation-events] ──▶ worker

With partitions:

publishers ──▶ (cim.ingress) ──▶ (cim.ingress.partitions) ──▶ [cim.ingress.<n>] ──▶ worker
by name ─────▶ [cim.ingress] ──▶ worker ──▲
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.contract import (
    CONVERSATION_EVENTS,
    DEAD_LETTERS,
    HUB,
    INGRESS,
    OUTCOMES,
    PARKED,
    PARTITIONS,
    WAITING,
    partition_queue,
    retry_queue,
)
from worker.rabbit.errors import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    AccessRefused,
    ChannelClosed,
    ConnectionLost,
    TopologyMismatch,
)
from worker.rabbit.probing import fresh_channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.rabbit.connection import Connection

_MISSING = "missing"
_MAY_NOT_LOOK = "not checked: this user may not look at it"
_MAY_NOT_COMPARE = "exists; not compared: only a user with configure permission, or the management API, can"
_MAY_NOT_DECLARE = "this user may not declare it"
_KNOWN_EVERYWHERE_TRIES, _KNOWN_EVERYWHERE_SECONDS = 20, 0.1
_FIRST_WITH_DEFAULT_DELIVERY_LIMIT = (4, 0)
_HASHING = "x-consistent-hash"
_WEIGHT = "1"
"""Binding key of a partition: all get the same share of the keys."""
_EVERY_KEY = "#"
_UNKNOWN_TYPE = "exchange type"
"""In the broker's words when no plugin knows an exchange's type; it ends the connection, from 4.3 on the channel."""
_NO_PLUGIN = (
    "the broker knows no consistent-hash exchange: "
    "run `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` on each of its nodes"
)
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for \w+ '.*' in vhost '.*': "
    r"received (?P<received>.+) but current is (?P<current>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '\w+')?")
"""A value in the broker's words; `none` is the other one."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue or stream, and the exchanges it is bound to with *key*."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    bound_to: tuple[str, ...] = ()
    key: str = _EVERY_KEY


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """How much the journal keeps: the oldest goes when either is exceeded."""

    max_bytes: int = 1024**3
    max_days: int = 7


DEFAULT_BOUNDS = JournalBounds()


@dataclass(frozen=True, slots=True)
class Topology:
    """What has to exist. Build it with `wanted`."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    partitions: tuple[Queue, ...] = ()
    """Those of *queues* that share the ingress, where it is partitioned."""

    @property
    def bindings(self) -> tuple[tuple[str, Queue], ...]:
        """Every exchange with each queue that is bound to it."""
        return tuple((exchange, queue) for queue in self.queues for exchange in queue.bound_to)


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing: as wanted, unless it has a *problem*, whose *fix* says what to do."""

    kind: str
    name: str
    problem: str | None = None
    fix: str | None = None
    unchecked: str | None = None
    """What could not be checked, and why, as is right for a worker's user; no problem in itself."""

    @property
    def is_missing(self) -> bool:
        """Whether it does not exist."""
        return self.problem == _MISSING


def wanted(
    retry_tiers: tuple[tuple[str, int], ...],
    delivery_limit: int,
    broker_version: tuple[int, ...],
    journal: JournalBounds = DEFAULT_BOUNDS,
    partitions: int = 0,
    *,
    ordered: bool = False,
) -> Topology:
    """Return the topology for *retry_tiers* (delay name, seconds) on a broker of *broker_version*.

    With *partitions* the ingress exchange leads to so many queues by the routing key's hash, and the queue of its name
    takes only what is published to it by name, retries included. *ordered*: each of them, that queue
    and the waiting room have one consumer at a time.

    All but the journal, a stream, are quorum queues that dead-letter at least once and refuse publishes when full: the
    default, at most once, loses messages silently when the target is away.
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
    in_order = {**to_dead_letters, **({"x-single-active-consumer": True} if ordered and partitions else {})}
    parts = tuple(Queue(partition_queue(number), in_order, (PARTITIONS,), _WEIGHT) for number in range(partitions))
    return Topology(
        partitions=parts,
        exchanges=(
            Exchange(INGRESS, "topic"),
            *([Exchange(PARTITIONS, _HASHING)] if parts else ()),
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
            Queue(INGRESS, in_order, () if parts else (INGRESS,)),
            *parts,
            Queue(WAITING, in_order),
            *tiers,
            Queue(
                OUTCOMES,
                {
                    "x-queue-type": "stream",
                    "x-max-length-bytes": journal.max_bytes,
                    "x-max-age": f"{journal.max_days}D",
                },
            ),
            # One consumer at a time keeps lifecycle events in order; the others stand by.
            Queue(CONVERSATION_EVENTS, {**to_dead_letters, "x-single-active-consumer": True}, (CONVERSATION_EVENTS,)),
        ),
    )


_SAFE: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


async def apply(connection: Connection, topology: Topology, *, nodes: Sequence[Connection] = ()) -> list[Finding]:
    """Create what is missing; change nothing that exists. Idempotent.

    A new queue is led by the node on which it is declared: they are declared on *nodes*, if given, in turn.

    Returns one finding for each thing; a mismatch is reported, not raised, so that one run shows them all.
    Raises `TopologyMismatch` when the broker lacks the plugin that partitions need.
    """
    findings = [await _declare_exchange(connection, exchange) for exchange in topology.exchanges]
    for number, queue in enumerate(topology.queues):
        if queue not in topology.partitions:
            findings += await _declare_and_bind(nodes[number % len(nodes)] if nodes else connection, queue)
    if topology.partitions:
        findings += await _partition(connection, topology, nodes or (connection,))
    return findings


async def _declare_and_bind(connection: Connection, queue: Queue) -> list[Finding]:
    finding = await _declare_queue(connection, queue)
    if finding.problem is not None:
        return [finding]
    return [finding, *[await _bind(connection, queue.name, exchange, queue.key) for exchange in queue.bound_to]]


async def _partition(connection: Connection, topology: Topology, nodes: Sequence[Connection]) -> list[Finding]:
    """Put the partitions between ingress exchange and workers, or more of them; publishers and workers go on.

    At every moment there is one way for each message: the undivided queue becomes the only partition first, which the
    broker reaches once however many ways lead there; then the direct way ends, the others join, and it leaves. A run
    that was interrupted is taken up by the next one: the first partition exists only after the direct way has ended.
    """
    steps = []
    if not await found_partitions(connection):
        steps.append(await _bind(connection, INGRESS, PARTITIONS, _WEIGHT))
    joined = await _join(connection)
    if any(problems([*steps, joined])):
        return [*steps, joined]
    await _unbind(connection, INGRESS, INGRESS, _EVERY_KEY)
    findings = [joined]
    for number, queue in enumerate(topology.partitions):
        findings += await _declare_and_bind(nodes[number % len(nodes)], queue)
    if not any(problems(findings)):
        await _unbind(connection, INGRESS, PARTITIONS, _WEIGHT)
    return findings


async def found_partitions(connection: Connection) -> int:
    """Return how many partitions the ingress has on the broker; 0: it is not partitioned, or not for this user."""
    count = 0
    while True:
        absent = await _missing(connection, "queue", partition_queue(count))
        if absent is not None:
            return count
        count += 1


async def check(connection: Connection, topology: Topology) -> list[Finding]:
    """Compare without changing anything. Bindings and policies cannot be seen over AMQP and are not reported.

    A thing that exists is declared again with the wanted arguments, which AMQP defines as a comparison; a user who may
    not declare it learns only that it exists.
    """
    findings = []
    for exchange in topology.exchanges:
        missing = await _missing(connection, "exchange", exchange.name)
        findings.append(missing or _as_comparison(await _declare_exchange(connection, exchange)))
    for queue in topology.queues:
        missing = await _missing(connection, "queue", queue.name)
        findings.append(missing or _as_comparison(await _declare_queue(connection, queue)))
    return findings


async def ready(connection: Connection, name: str) -> int | None:
    """Return how many messages are ready in a queue, or None when it does not exist."""
    try:
        async with fresh_channel(connection) as channel:
            return int((await channel.call("queue_declare", name, passive=True)).message_count)
    except ChannelClosed as error:
        if error.reply_code != NOT_FOUND:
            raise
        return None


def compare(wanted: Exchange | Queue, found: Mapping[str, Any]) -> Finding:
    """Return how *wanted* differs from what the management API found under its name."""
    if isinstance(wanted, Exchange):
        kind, expected = "exchange", {"type": wanted.type}
        current: dict[str, Any] = {"type": found.get("type")}
    else:
        kind, expected = "queue", wanted.arguments
        current = {"x-queue-type": "classic", **found.get("arguments", {})}
    for name in sorted({*expected, *current}, key=lambda name: name != "x-queue-type"):
        if expected.get(name) != current.get(name):
            text = _in_words(name, expected.get(name), current.get(name))
            return Finding(kind, wanted.name, text, _fix(kind, wanted.name))
    if not found.get("durable", True):
        return Finding(kind, wanted.name, _in_words("durable", "true", "false"), _fix(kind, wanted.name))
    return Finding(kind, wanted.name)


async def _missing(connection: Connection, kind: str, name: str) -> Finding | None:
    try:
        async with fresh_channel(connection) as channel:
            await channel.call(f"{kind}_declare", name, passive=True)
    except ChannelClosed as error:
        if error.reply_code == NOT_FOUND:
            return Finding(kind, name, _MISSING, "run `cim-worker topology apply`")
        raise
    except AccessRefused:
        return Finding(kind, name, fix=f"grant the user any permission on {name}", unchecked=_MAY_NOT_LOOK)
    return None


async def _declare_exchange(connection: Connection, exchange: Exchange) -> Finding:
    try:
        finding = await _try(
            connection, "exchange", exchange.name, "exchange_declare", exchange.name, exchange.type, durable=True
        )
    except ConnectionLost as error:
        if exchange.type == _HASHING and _UNKNOWN_TYPE in str(error):
            raise TopologyMismatch(_NO_PLUGIN) from error
        raise
    if exchange.type == _HASHING and _UNKNOWN_TYPE in (finding.problem or ""):
        raise TopologyMismatch(_NO_PLUGIN)
    return finding


async def _declare_queue(connection: Connection, queue: Queue) -> Finding:
    finding = await _declare_queue_with(connection, queue.name, queue.arguments)
    if finding.problem is None or finding.problem == _MAY_NOT_DECLARE:
        return finding
    # The broker names the first difference it meets; that of the type says more than any other.
    of_type = await _declare_queue_with(connection, queue.name, {"x-queue-type": queue.arguments["x-queue-type"]})
    return of_type if of_type.problem and of_type.problem.startswith("is ") else finding


async def _declare_queue_with(connection: Connection, name: str, arguments: Mapping[str, Any]) -> Finding:
    return await _try(connection, "queue", name, "queue_declare", name, durable=True, arguments=arguments)


async def _bind(connection: Connection, queue: str, exchange: str, key: str) -> Finding:
    """Bind; an exchange that was declared on another node may take a moment to be known on this one."""
    name = f"{exchange} → {queue}"
    for _ in range(_KNOWN_EVERYWHERE_TRIES):
        try:
            return await _try(connection, "binding", name, "queue_bind", queue, exchange, routing_key=key)
        except ChannelClosed as error:
            if error.reply_code != NOT_FOUND:
                raise
            await asyncio.sleep(_KNOWN_EVERYWHERE_SECONDS)
    return await _try(connection, "binding", name, "queue_bind", queue, exchange, routing_key=key)


async def _join(connection: Connection) -> Finding:
    """Lead the ingress exchange to the partitions."""
    name = f"{INGRESS} → {PARTITIONS}"
    return await _try(connection, "binding", name, "exchange_bind", PARTITIONS, INGRESS, routing_key=_EVERY_KEY)


async def _unbind(connection: Connection, queue: str, exchange: str, key: str) -> None:
    async with fresh_channel(connection) as channel:
        await channel.call("queue_unbind", queue, exchange, routing_key=key)


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


def _as_comparison(finding: Finding) -> Finding:
    if finding.problem != _MAY_NOT_DECLARE:
        return finding
    return Finding(finding.kind, finding.name, fix=finding.fix, unchecked=_MAY_NOT_COMPARE)


def _difference(text: str) -> str:
    """Put the broker's words for a difference into ours; what they do not fit stays as it is."""
    found = _INEQUIVALENT.search(text)
    if found is None:
        return text.removeprefix("PRECONDITION_FAILED - ")
    return _in_words(found["argument"], _value(found["received"]), _value(found["current"]))


def _in_words(argument: str, wanted: object, current: object) -> str:
    if argument == "x-queue-type":
        current = current or "classic"  # as the broker means a queue without that argument
        reason = ": its messages are on one node only" if current == "classic" else ""
        return f"is {current}, must be {wanted}{reason}"
    if argument == "type":
        return f"is {current}, must be {wanted}"
    if argument == "durable":
        return "is not durable, must be: it ends with the broker" if wanted == "true" else "is durable, must not be"
    must = "must not be set" if wanted is None else f"must be {wanted}"
    return f"{argument} is {'not set' if current is None else current}, {must}"


def _value(text: str) -> str | None:
    found = _VALUE.fullmatch(text.strip())
    return found["value"] if found else None


def _fix(kind: str, name: str) -> str:
    if kind == "queue":
        through = "stop the workers and run `cim-worker topology apply --migrate`"
        return f"set the setting to what it has, or take {name} through: {through}"
    return f"delete {name} while nobody publishes, and run `cim-worker topology apply`"


def problems(findings: list[Finding]) -> Iterator[Finding]:
    """Yield only what is not as wanted."""
    return (finding for finding in findings if finding.problem is not None)
