"""What is wrong, or will be, with the store: its server, indexes, clock, and the records nobody can read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from worker.conversations.conversation import UnreadableRecord
from worker.desk.pools import resume_command
from worker.failure import AdapterError
from worker.mongo import indexes
from worker.mongo.pools import Pools
from worker.mongo.registry import Registry
from worker.mongo.server import describe
from worker.process.doctor.finding import Area, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.mongo.client import Store
    from worker.mongo.server import ServerFacts

_STORE: Final = Area("store")
_OLDEST: Final = (4, 2)
_MAINTAINED: Final = (7, 0)
_MAX_SKEW_MS: Final = 5_000
_SHOWN: Final = 5
_MOST_RECORDS: Final = 100_000
"""Records read at most: a doctor's visit must not take hours."""
_PAGE: Final = 1_000


async def examine_store(store: Store) -> list[Finding]:
    """Return what was found. Raises `StoreUnavailable` or `OperatorFault`."""
    before = time.time_ns() // 1_000_000
    facts = await describe(store)
    now = (before + time.time_ns() // 1_000_000) // 2
    return [
        *_server(facts),
        _clock(facts, now),
        *await _indexes(store),
        *await _unreadable(Registry(store)),
        *await _paused(Pools(store)),
    ]


def _server(facts: ServerFacts) -> Iterator[Finding]:
    shown = ".".join(map(str, facts.version))
    if facts.version < _OLDEST:
        yield _STORE.problem("version", f"{shown}: the driver does not speak to it", "upgrade to MongoDB 8")
    elif facts.version < _MAINTAINED:
        yield _STORE.risk("version", f"{shown} gets no more corrections", "plan the upgrade to MongoDB 8")
    else:
        yield _STORE.ok("version", shown)
    if facts.set_name is None:
        text = "one server, no replica set: a majority of one; what it loses is lost"
        yield _STORE.risk("write concern", text, "run a replica set of three")
    elif facts.arbiters:
        text = f"replica set {facts.set_name} with an arbiter: with one member away no write is acknowledged"
        yield _STORE.risk("write concern", text, "replace the arbiter by a member with data")
    else:
        yield _STORE.ok("write concern", f"majority and journal, replica set {facts.set_name} of {facts.members}")


def _clock(facts: ServerFacts, now: int) -> Finding:
    if facts.at is None:
        return _STORE.unchecked("clock", "the server does not tell its time", "compare by hand")
    skew = facts.at - now
    if abs(skew) > _MAX_SKEW_MS:
        text = f"the store's clock is {abs(skew) / 1000:.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        return _STORE.risk("clock", text, "run an NTP client on both")
    return _STORE.ok("clock", f"within {_MAX_SKEW_MS // 1000} s of this machine's")


async def _indexes(store: Store) -> list[Finding]:
    findings = []
    for collection in dict.fromkeys(index.collection for index in indexes.ALL):
        absent = await indexes.missing(store, collection)
        if absent:
            text = f"missing: {', '.join(index.name for index in absent)}"
            findings.append(_STORE.risk(f"indexes of {collection}", text, "cim-worker store apply"))
        else:
            findings.append(_STORE.ok(f"indexes of {collection}"))
    return findings


async def _unreadable(registry: Registry) -> list[Finding]:
    """Read the registry as the worker does, and name what it could not: it counts as an unknown conversation."""
    read, found, after = 0, [], None
    while read < _MOST_RECORDS:
        page = await registry.list(limit=_PAGE, after=after)
        if not page:
            break
        read, after = read + len(page), page[-1].id
        found += [one for one in page if isinstance(one, UnreadableRecord)]
    if not found:
        return [_STORE.ok("registry records", f"{read} read")]
    shown = "; ".join(f"{one.id}: {one.problem}" for one in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
    text = f"{len(found)} of {read} cannot be read and count as unknown: {shown}"
    fix = "see `cim-worker conversations show ID`; correct the field, or delete the record"
    return [_STORE.problem("registry records", text, fix)]


async def _paused(pools: Pools) -> list[Finding]:
    try:
        paused = [one for one in await pools.all() if one.get("paused")]
    except AdapterError as error:
        return [_STORE.unchecked("pools", str(error), "give the user the right to read the collection pools")]
    said = {str(one["_id"]): f"paused by {one.get('pausedBy')}: {one.get('reason')}" for one in paused}
    return [_STORE.risk(f"pool {name}", text, resume_command(name)) for name, text in said.items()]
