"""What has to be true before the first delivery is taken: the topology, our rights, the store's indexes."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from worker import contract
from worker.addresses import user_name
from worker.failure import OperatorFault
from worker.mongo import indexes
from worker.mongo.activities import COLLECTION as ACTIVITIES
from worker.rabbit.errors import NOT_FOUND, AccessRefused, ChannelClosed, TopologyMismatch
from worker.rabbit.hazards import hazards
from worker.rabbit.management import Management, ManagementUnavailable
from worker.rabbit.probing import try_bind, try_configure, try_consume, try_publish
from worker.rabbit.topology import JournalBounds, check, problems, wanted
from worker.settings import delay_seconds

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from worker.mongo.client import Store
    from worker.ports import Reporter
    from worker.rabbit.connection import Connection
    from worker.rabbit.topology import Finding, Topology
    from worker.settings import Settings

_HAZARDS_SECONDS = 15


def wanted_topology(settings: Settings, broker_version: tuple[int, ...] = (0,), partitions: int = 0) -> Topology:
    """Return the topology of *settings* on a broker of *broker_version*, the ingress in so many *partitions*."""
    tiers = tuple((delay, delay_seconds(delay)) for delay in settings.retry_delays)
    bounds = JournalBounds(settings.journal_max_bytes, settings.journal_max_days)
    order = settings.ingress_order
    return wanted(tiers, settings.delivery_limit, broker_version, bounds, partitions, ordered=order)


async def check_topology(connection: Connection, settings: Settings, reporter: Reporter, partitions: int = 0) -> None:
    """Refuse to work on a broker where a message could have nowhere to go.

    Raises `TopologyMismatch` when something is missing; other differences are reported.
    """
    topology = wanted_topology(settings, connection.server_version, partitions)
    findings = list(problems(await check(connection, topology)))
    absent = [f"{one.kind} {one.name}" for one in findings if one.is_missing and one.name != contract.OUTCOMES]
    if absent:
        msg = f"missing: {', '.join(absent)}; run `cim-worker topology apply`"
        raise TopologyMismatch(msg)
    _warn(findings, reporter)
    if settings.ingress_order and not partitions:
        reporter.warn("order_not_kept", fix="cim-worker topology apply --partitions N")


async def warn_of_hazards(settings: Settings, reporter: Reporter) -> None:
    """Report bindings that are missing and policies that lose messages, if the management API may be asked."""
    api = Management.of(settings)
    if api is None:
        return
    try:
        async with asyncio.timeout(_HAZARDS_SECONDS):
            topology = wanted_topology(settings, partitions=await api.partitions())
            _warn(problems(await hazards(api, topology)), reporter)
    except (ManagementUnavailable, TimeoutError) as error:
        reporter.warn("management_unavailable", reason=str(error) or f"no answer within {_HAZARDS_SECONDS} s")


def _warn(findings: Iterable[Finding], reporter: Reporter) -> None:
    for one in findings:
        reporter.warn("topology_differs", name=one.name, difference=one.problem, fix=one.fix)


async def check_rights(consuming: Connection, publishing: Connection, settings: Settings, partitions: int = 0) -> None:
    """Find out whether we have every right the work needs; nothing is left behind by asking.

    A refusal later would hand deliveries back with every new session, and each return counts towards their limit.
    Raises `AccessRefused` with all that is refused.
    """
    refused = await missing_rights(consuming, publishing, settings, partitions)
    if refused:
        user = user_name(settings.rabbitmq_url)
        msg = f"the user {user} may not {', nor '.join(refused)}: deploy/README.md lists the rights of each user"
        raise AccessRefused(msg)


async def missing_rights(
    consuming: Connection,
    publishing: Connection,
    settings: Settings,
    partitions: int = 0,
    *,
    skip_missing: bool = False,
) -> list[str]:
    """Return each right the work needs and we do not have, as an operator would say it.

    What does not exist raises `ChannelClosed`, unless that is to be skipped.
    """
    probes = _rights(consuming, publishing, settings, partitions)
    answers = await asyncio.gather(*probes.values(), return_exceptions=True)
    refused = []
    for right, answer in zip(probes, answers, strict=True):
        if isinstance(answer, AccessRefused):
            refused.append(right)
        elif isinstance(answer, BaseException) and not (skip_missing and _is_missing(answer)):
            raise answer
    return refused


def _is_missing(answer: BaseException) -> bool:
    return isinstance(answer, ChannelClosed) and answer.reply_code == NOT_FOUND


def _rights(
    consuming: Connection, publishing: Connection, settings: Settings, partitions: int
) -> dict[str, Coroutine[None, None, None]]:
    """Return each right we need, as an operator would say it, with what finds out whether we have it."""
    moved_to = (contract.PARTITIONS,) if partitions else ()
    rights = {
        f"write to the exchange {name or 'amq.default'}": try_publish(
            publishing, name, user_id=user_name(settings.rabbitmq_url)
        )
        for name in ("", contract.HUB, contract.DEAD_LETTERS, *moved_to)
    }
    queues = [*contract.ingress_queues(partitions), contract.WAITING]
    if settings.record_dead_letters:
        queues.append(contract.DEAD_LETTERS)
    if settings.conversation_events:
        queues.append(contract.CONVERSATION_EVENTS)
        rights[f"configure the queue {contract.RECONCILER}"] = try_configure(consuming, contract.RECONCILER)
        exchange = contract.conversation_exchange(secrets.token_hex(12))
        every = contract.conversation_exchange("…")
        rights[f"configure the exchanges {every}"] = try_configure(consuming, exchange)
        rights[f"write to the exchanges {every} or read from {contract.HUB} (to bind one to the other)"] = try_bind(
            consuming, exchange, contract.HUB
        )
    return rights | {f"read from the queue {name}": try_consume(consuming, name) for name in queues}


async def ensure_indexes(store: Store, reporter: Reporter) -> None:
    """Make the indexes of our own collections, and of the platform's while it is empty; report what is missing.

    No message waits for an index: what the store refuses is said once. Raises `StoreUnavailable`.
    """
    for collection in dict.fromkeys(index.collection for index in indexes.ALL):
        try:
            absent = await indexes.missing(store, collection)
            is_left = collection == ACTIVITIES and bool(absent) and not await indexes.is_empty(store, collection)
        except OperatorFault as error:
            reporter.warn("store_indexes_unknown", collection=collection, reason=error.failure.detail)
            continue
        if is_left:
            names = ", ".join(index.name for index in absent)
            reporter.warn("store_indexes_missing", collection=collection, indexes=names, fix="cim-worker store apply")
            continue
        for index in absent:
            failure = await indexes.make(store, index)
            if failure is not None:
                reporter.warn("store_index_refused", collection=collection, index=index.name, reason=failure.detail)
    if not await store.is_embedded():
        await indexes.make(store, indexes.CLAIMS)  # who refuses it does not need it
