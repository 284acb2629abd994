"""What has to be true before the first delivery is taken: the topology, our rights, the store's indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker import contract
from worker.failure import OperatorFault
from worker.mongo import indexes
from worker.mongo.activities import COLLECTION as ACTIVITIES
from worker.ports import Confirmation, Outgoing
from worker.process.app import new_id
from worker.rabbit.errors import TopologyMismatch
from worker.rabbit.topology import check, problems, wanted
from worker.settings import delay_seconds

if TYPE_CHECKING:
    from worker.mongo.client import Store
    from worker.ports import Reporter
    from worker.rabbit.connection import Connection
    from worker.rabbit.publisher import Publisher
    from worker.settings import Settings


async def check_topology(connection: Connection, settings: Settings, reporter: Reporter) -> None:
    """Refuse to work on a broker where a message could have nowhere to go.

    Raises `TopologyMismatch` when something is missing; other differences are reported.
    """
    tiers = tuple((delay, delay_seconds(delay)) for delay in settings.retry_delays)
    expected = wanted(tiers, settings.delivery_limit, connection.server_version)
    findings = list(problems(await check(connection, expected)))
    absent = [f"{one.kind} {one.name}" for one in findings if one.is_missing]
    if absent:
        msg = f"missing: {', '.join(absent)}; run `cim-worker topology apply`"
        raise TopologyMismatch(msg)
    for one in findings:
        if not one.is_unchecked:
            reporter.warn("topology_differs", name=one.name, difference=one.problem, fix=one.fix)


async def check_may_publish(publisher: Publisher) -> None:
    """Find out whether we may publish; both probes are returned, for nothing is bound there.

    A refusal later would hand deliveries back with every new session, and each return counts towards their limit.
    Raises what the broker says.
    """
    probes = [Outgoing(contract.HUB, "", new_id(), b""), Outgoing("", f"{contract.INGRESS}.probe", new_id(), b"")]
    if Confirmation.UNKNOWN in await publisher.publish(probes):
        raise await publisher.closed


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
