"""Exchanges follow the registry: an active conversation has its exchange on the hub, a closed one loses it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.codes import Code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from worker.conversations.conversation import ConversationRecord
    from worker.conversations.ports import ConversationExchangePort, RegistryPort
    from worker.failure import Failure

    _Operation = Callable[[Sequence[str]], Awaitable[list[Failure | None]]]

_MAX_ROUNDS = 20
"""Rounds after which a conversation that others keep opening and closing is left to whoever changed it last."""


@dataclass(frozen=True, slots=True)
class Converged:
    """What became of conversations and their exchanges."""

    records: Mapping[str, ConversationRecord]
    """The conversations as they were seen last."""
    failures: Mapping[str, Failure]
    """What went wrong with an exchange, by conversation; all others are as they should be."""


class Convergence:
    """Makes exchanges match the registry, each conversation for itself.

    Raises `StoreUnavailable` or `OperatorFault` when the registry cannot be read.
    """

    def __init__(self, registry: RegistryPort, exchanges: ConversationExchangePort) -> None:
        self._registry = registry
        self._exchanges = exchanges
        self._changing = asyncio.Lock()
        """Held while exchanges are changed, so that no deletion hits one that was just opened again."""

    async def converge(self, records: Iterable[ConversationRecord]) -> Converged:
        """Open or unbind the exchanges of *records*, and look again: another process may have changed them meanwhile.

        Idempotent.
        """
        failures: dict[str, Failure] = {}
        wanted = {record.id: record for record in records}
        latest = dict(wanted)
        async with self._changing:
            for _ in range(_MAX_ROUNDS):
                failures |= await self._match(list(wanted.values()))
                again = await self._registry.read(wanted)
                latest |= again
                wanted = {key: record for key, record in again.items() if record.state != wanted[key].state}
                for key in wanted:
                    failures.pop(key, None)
                if not wanted:
                    break
        return Converged(latest, failures)

    async def delete_closed(self, conversation_ids: Sequence[str]) -> dict[str, Failure]:
        """Delete the exchanges of those conversations that are closed, and note that they are gone.

        Returns what went wrong, by conversation. One that was opened again meanwhile, by whomever, has its exchange. An
        exchange that is not ours stays, and is not looked at again.
        """
        async with self._changing:
            records = await self._registry.read(conversation_ids)
            closed = [key for key, record in records.items() if not record.active]
            failures = await _each(self._exchanges.delete, closed)
            gone = [key for key in closed if key not in failures or failures[key].code is Code.EXCHANGE_TAKEN]
            await self._registry.exchanges_deleted(gone)
            again = await self._registry.read(gone)
            reopened = [key for key, record in again.items() if record.wants_exchange]
            return failures | await _each(self._exchanges.open, reopened)

    async def _match(self, records: Sequence[ConversationRecord]) -> dict[str, Failure]:
        to_open = [record.id for record in records if record.wants_exchange]
        to_unbind = [record.id for record in records if not record.active]
        return await _each(self._exchanges.open, to_open) | await _each(self._exchanges.unbind, to_unbind)


async def _each(operation: _Operation, conversation_ids: Sequence[str]) -> dict[str, Failure]:
    if not conversation_ids:
        return {}
    results = await operation(conversation_ids)
    return {key: failure for key, failure in zip(conversation_ids, results, strict=True) if failure is not None}
