"""Finds the conversation of each message: from memory, or else from the registry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.failure import AdapterError, store_silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.conversations.cache import ConversationCache
    from worker.conversations.ports import ConversationLookup, Lookup
    from worker.flow.gate import Gate
    from worker.pipeline.inbound import Inbound
    from worker.ports import Clock


class ConversationFinder:
    """Fills `Inbound.conversation`; None there means that the registry knows nothing."""

    def __init__(
        self,
        *,
        registry: ConversationLookup,
        cache: ConversationCache,
        gate: Gate,
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._gate = gate
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    def remembers(self, inbound: Inbound) -> bool:
        """Fill the conversation from memory; tell whether the registry need not be asked."""
        message, now = inbound.message, self._clock.monotonic()
        if message.conversation_id is not None:
            inbound.conversation = self._cache.by_conversation(message.conversation_id, now)
            session_id = message.channel_session_id
            known = inbound.conversation is not None
            return known and (session_id is None or inbound.conversation.session(session_id) is not None)  # type: ignore[union-attr]
        if message.channel_session_id is not None:
            inbound.conversation = self._cache.by_session(message.channel_session_id, now)
            return inbound.conversation is not None
        return True

    async def ask_registry(self, inbounds: Sequence[Inbound]) -> bool:
        """Fill the conversations of *inbounds*, asked for in one go; return whether there was an answer.

        While the store is away nobody is asked; a registry that does not answer closes the gate. Raises what a record
        nobody can read raises.
        """
        if not self._gate.is_open:
            return False
        conversation_ids = {
            inbound.message.conversation_id for inbound in inbounds if inbound.message.conversation_id is not None
        }
        session_ids = {
            inbound.message.channel_session_id
            for inbound in inbounds
            if inbound.message.conversation_id is None and inbound.message.channel_session_id is not None
        }
        try:
            async with asyncio.timeout(self._timeout_seconds):
                found = await self._registry.lookup(conversation_ids, session_ids)
        except TimeoutError:
            self._gate.close(store_silent())
            return False
        except AdapterError as error:
            self._gate.close(error.failure)
            return False
        self._fill(inbounds, found)
        return True

    def forget(self, conversation_id: str) -> None:
        """Ask the registry again next time; nobody listens to this conversation any more."""
        self._cache.forget(conversation_id)

    def _fill(self, inbounds: Sequence[Inbound], found: Lookup) -> None:
        now = self._clock.monotonic()
        conversations = {key: record.to_conversation() for key, record in found.by_conversation.items()}
        owners = {key: record.to_conversation() for key, record in found.by_session.items()}
        for conversation in (*owners.values(), *conversations.values()):
            self._cache.remember(conversation, now)
        for inbound in inbounds:
            message = inbound.message
            if message.conversation_id is not None:
                inbound.conversation = conversations.get(message.conversation_id)
            elif message.channel_session_id is not None:
                inbound.conversation = owners.get(message.channel_session_id)
