"""Finds the conversation of each message: from memory, or else from the registry."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from worker.failure import AdapterError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.cim import CimMessage
    from worker.conversations.cache import ConversationCache
    from worker.conversations.ports import ConversationLookup, Lookup
    from worker.flow.gate import Gate
    from worker.pipeline.inbound import Inbound
    from worker.ports import Clock


_SLOW_SECONDS = 0.25
"""A lookup that takes longer must not hold up what is remembered."""


class ConversationFinder:
    """Fills `Inbound.conversation`; None there means that the registry knows nothing."""

    def __init__(self, *, registry: ConversationLookup, cache: ConversationCache, gate: Gate, clock: Clock) -> None:
        """Ask *registry* while *gate*, that of its lookups, is open."""
        self._registry = registry
        self._cache = cache
        self._gate = gate
        self._clock = clock
        self._asked_at: dict[int, float] = {}
        self._numbers = itertools.count()

    def remembers(self, inbound: Inbound) -> bool:
        """Fill the conversation from memory; tell whether the registry need not be asked.

        While the registry is away or slow, what is remembered is used beyond its time: live events keep their room,
        session and customer, and are not held up.
        """
        message, now = _message(inbound), self._clock.monotonic()
        stale = not self._gate.is_open or self._is_slow(now)
        if message.conversation_id is not None:
            known = self._cache.by_conversation(message.conversation_id, now, stale=stale)
            inbound.conversation = known
            session_id = message.channel_session_id
            return known is not None and (session_id is None or known.session(session_id) is not None)
        if message.channel_session_id is not None:
            inbound.conversation = self._cache.by_session(message.channel_session_id, now, stale=stale)
            return inbound.conversation is not None
        return True

    def can_go_on(self, inbound: Inbound) -> bool:
        """Tell whether a message the registry did not answer for can go on: it names its conversation."""
        return _message(inbound).conversation_id is not None

    async def ask_registry(self, inbounds: Sequence[Inbound]) -> bool:
        """Fill the conversations of *inbounds*, asked for in one go; return whether there was an answer.

        While the store is away nobody is asked; a registry that does not answer closes the gate.
        """
        if not self._gate.is_open:
            return False
        messages = [_message(inbound) for inbound in inbounds]
        conversation_ids = {message.conversation_id for message in messages if message.conversation_id is not None}
        session_ids = {
            message.channel_session_id
            for message in messages
            if message.conversation_id is None and message.channel_session_id is not None
        }
        number = next(self._numbers)
        self._asked_at[number] = self._clock.monotonic()
        try:
            found = await self._registry.lookup(conversation_ids, session_ids)
        except AdapterError as error:
            if not self._gate.holds(error.failure):
                raise
            self._gate.close(error.failure, lambda: self._ask_again(conversation_ids, session_ids))
            return False
        finally:
            del self._asked_at[number]
        self._fill(inbounds, found)
        return True

    async def _ask_again(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> None:
        await self._registry.lookup(conversation_ids, session_ids)

    def _is_slow(self, now: float) -> bool:
        return bool(self._asked_at) and now - next(iter(self._asked_at.values())) > _SLOW_SECONDS

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
            message = _message(inbound)
            if message.conversation_id is not None:
                inbound.conversation = conversations.get(message.conversation_id)
            elif message.channel_session_id is not None:
                inbound.conversation = owners.get(message.channel_session_id)


def _message(inbound: Inbound) -> CimMessage:
    if inbound.message is None:
        msg = "the message was dropped before its conversation was found"
        raise AssertionError(msg)
    return inbound.message
