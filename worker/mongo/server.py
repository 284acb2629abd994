"""What a MongoDB server says of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pymongo.errors import OperationFailure

if TYPE_CHECKING:
    from worker.mongo.client import Store

_COMMAND_NOT_FOUND: Final = 59


class ServerFacts(NamedTuple):
    """One server, and the set it belongs to."""

    version: tuple[int, ...]
    set_name: str | None
    """None for a server alone."""
    members: int
    """That hold data."""
    arbiters: int
    at: int | None
    """Its clock, in epoch milliseconds."""


async def describe(store: Store) -> ServerFacts:
    """Ask the server. Raises `StoreUnavailable` or `OperatorFault`."""
    async with store.operation():
        build = await store.database.command("buildInfo")
        hello = await _hello(store)
    at = hello.get("localTime")
    return ServerFacts(
        version=tuple(int(part) for part in str(build.get("version", "0")).split(".")[:3] if part.isdecimal()),
        set_name=hello.get("setName"),
        members=len(hello.get("hosts", ())),
        arbiters=len(hello.get("arbiters", ())),
        at=int(at.replace(tzinfo=UTC).timestamp() * 1000) if isinstance(at, datetime) else None,
    )


async def _hello(store: Store) -> dict[str, Any]:
    """Ask as servers have been asked since MongoDB 4.4.2, and those that do not know it by the name it had before."""
    try:
        return await store.database.command("hello")
    except OperationFailure as error:
        if error.code != _COMMAND_NOT_FOUND:
            raise
    return await store.database.command("isMaster")
