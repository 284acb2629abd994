"""The `pools` collection: how each pool is, and whether an operator paused it.

One document per pool, times in epoch milliseconds:

    {
      "_id": "default",                 the pool's name (CIM_POOL); "*" speaks for all pools and has no processes
      "paused": true,
      "pausedBy": "alice", "reason": "store maintenance", "pausedAt": 1764000000000,
      "updatedAt": 1764000000000,       when a process last reported
      "processes": {                    one entry per worker process; one that stops well takes its entry away
        "host_example-4711-0": {        host, process id of its supervisor, and its number there
          "host": "host.example", "pid": 4712, "process": 0, "version": "1.0.0",
          "startedAt": …, "at": …,      an `at` of more than half a minute ago: it is gone
          "paused": true,               whether it has stopped taking messages
          "ready": false, "reasons": ["paused by alice …"],
          "received": 1200, "outcomes": {"published": 900, …}
        }
      }
    }
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.desk.pools import FORGOTTEN_MS, age_of, processes_of
from worker.flow.pause import NOT_PAUSED, PauseState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.mongo.client import Document, Store

COLLECTION: Final = "pools"
ALL: Final = "*"
"""The document that speaks for all pools, those that begin later included."""
_NOT_IN_KEY: Final = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class PoolProcess:
    """One worker process, as it reports itself."""

    host: str
    supervisor: int
    """Process id of its supervisor: whatever takes its place there takes its place here."""
    process: int
    """Its number in that."""
    pid: int

    @property
    def key(self) -> str:
        """Its name in the document, which may hold neither dots nor dollars."""
        return _NOT_IN_KEY.sub("_", f"{self.host}-{self.supervisor}-{self.process}")


class Pools:
    """Reads and writes the documents of pools. Every method raises `StoreUnavailable` or `OperatorFault`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._collection = store.collection(COLLECTION)

    async def report(self, pool: str, process: PoolProcess, facts: Mapping[str, Any], now: int) -> None:
        """Write down how *process* is."""
        entry = {"host": process.host, "process": process.process, "pid": process.pid, "at": now, **facts}
        await self._update(pool, {"$set": {f"processes.{process.key}": entry, "updatedAt": now}})

    async def leave(self, pool: str, process: PoolProcess) -> None:
        """Take the entry of *process* away: it stops well."""
        await self._update(pool, {"$unset": {f"processes.{process.key}": ""}})

    async def forget_gone(self, pool: str, now: int) -> None:
        """Take away the entries of processes that did not report for long."""
        document = await self.find(pool)
        gone = [key for key, one in processes_of(document or {}).items() if age_of(one, now) > FORGOTTEN_MS]
        if gone:
            await self._update(pool, {"$unset": {f"processes.{key}": "" for key in gone}})

    async def state(self, pool: str) -> PauseState:
        """Return whether *pool*, or all pools, are paused; what is said of the one comes first."""
        async with self._store.operation():
            query: Document = {"_id": {"$in": [pool, ALL]}, "paused": True}
            found = await self._collection.find(query, {"processes": 0}).to_list()
        documents = sorted(found, key=lambda one: one["_id"] == ALL)
        return _state(documents[0]) if documents else NOT_PAUSED

    async def pause(self, pool: str, state: PauseState) -> None:
        """Have the processes of *pool* stop taking messages, now and after every restart."""
        by, reason, at = state.by, state.reason, state.at
        await self._update(pool, {"$set": {"paused": True, "pausedBy": by, "reason": reason, "pausedAt": at}})

    async def resume(self, pool: str) -> bool:
        """Have them take messages again; return whether they were paused."""
        async with self._store.operation(writes=True):
            changes: Document = {
                "$set": {"paused": False},
                "$unset": {"pausedBy": "", "reason": "", "pausedAt": ""},
            }
            result = await self._collection.update_one({"_id": pool, "paused": True}, changes)
        return result.matched_count > 0

    async def find(self, pool: str) -> Document | None:
        """Return the document of *pool*."""
        async with self._store.operation():
            return await self._collection.find_one({"_id": pool})

    async def all(self) -> list[Document]:
        """Return the documents of all pools."""
        async with self._store.operation():
            found = await self._collection.find({}).to_list()
        return sorted(found, key=lambda one: str(one["_id"]))

    async def _update(self, pool: str, changes: Document) -> None:
        async with self._store.operation(writes=True):
            await self._collection.update_one({"_id": pool}, changes, upsert=True)


def _state(document: Mapping[str, Any]) -> PauseState:
    at = document.get("pausedAt")
    by, reason = str(document.get("pausedBy") or "somebody"), str(document.get("reason") or "")
    return PauseState(True, by, reason, at if isinstance(at, int) else 0)  # noqa: FBT003 - the state itself
