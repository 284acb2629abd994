"""Finds the conversation of each message: from memory, or else from the registry."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from worker.conversations.ports import Lookup
from worker.failure import AdapterError, Failure
from worker.flow.lane import Lane
from worker.pipeline.translate import contradictions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.conversations.cache import ConversationCache
    from worker.conversations.conversation import Conversation
    from worker.conversations.ports import ConversationLookup
    from worker.flow.gate import Gate
    from worker.flow.tasks import Crash
    from worker.pipeline.inbound import Inbound
    from worker.ports import Clock, Reporter


_SLOW_SECONDS = 0.05
"""A lookup that takes longer must not hold up what is remembered."""
_REFRESH_BYTES = 100_000
"""Of ids."""


class ConversationFinder:
    """Fills `Inbound.conversation`; None there means that the registry knows nothing."""

    def __init__(
        self,
        *,
        registry: ConversationLookup,
        cache: ConversationCache,
        gate: Gate,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
        bundle: int,
    ) -> None:
        """Ask *registry* while *gate*, that of its lookups, is open; for at most *bundle* conversations to refresh."""
        self._registry = registry
        self._cache = cache
        self._gate = gate
        self._clock = clock
        self._reporter = reporter
        self._asked_at: dict[int, float] = {}
        self._last_took = 0.0
        self._numbers = itertools.count()
        self._to_refresh: set[str] = set()
        self._refreshes: Lane[str] = Lane(
            "refresh",
            self._refresh,
            bundle=bundle,
            at_once=1,
            size_of=len,
            bundle_bytes=_REFRESH_BYTES,
            on_bug=crash.report,
        )

    def remembers(self, inbound: Inbound) -> bool:
        """Fill the conversation from memory; tell whether the registry need not be asked.

        While the store is away or the registry slow, what is remembered is used beyond its time: live events keep their
        room, session and customer, and are not held up. A slow one is asked again meanwhile.
        """
        now = self._clock.monotonic()
        conversation_id, session_id = inbound.identity.conversation_id, inbound.channel_session_id
        if conversation_id is None and session_id is None:
            return True
        if conversation_id is not None:
            known = self._cache.by_conversation(conversation_id, now)
        else:
            known = self._remembered(conversation_id, session_id, now, stale=False)
        if known is None and (self._gate.is_doubtful or self._is_slow(now)):
            known = self._remembered(conversation_id, session_id, now, stale=True)
            if known is not None:
                self._refresh_soon(known.id)
        inbound.conversation = known
        if known is None or not (conversation_id is None or session_id is None or known.session(session_id)):
            return False
        if inbound.customer_id is not None and inbound.customer_id != known.customer_id:
            self._count_contradictions(inbound)
        return True

    def can_go_on(self, inbound: Inbound) -> bool:
        """Tell whether a message the registry did not answer for can go on: it names its conversation."""
        return inbound.identity.conversation_id is not None

    @property
    def is_usable(self) -> bool:
        """Whether the registry answers, as far as known."""
        return self._gate.is_open

    async def ask_registry(self, inbounds: Sequence[Inbound]) -> Failure | None:
        """Fill the conversations of *inbounds*, asked for in one go; return why there was no answer, None if there was.

        While the store is away nobody is asked; a registry that does not answer closes the gate.
        """
        if self._gate.failure is not None:
            return self._gate.failure
        conversation_ids, session_ids = set(), set()
        for inbound in inbounds:
            if inbound.identity.conversation_id is not None:
                conversation_ids.add(inbound.identity.conversation_id)
            elif inbound.channel_session_id is not None:
                session_ids.add(inbound.channel_session_id)
        found = await self._ask(conversation_ids, session_ids)
        if isinstance(found, Failure):
            return found
        self._fill(inbounds, found)
        return None

    async def stop(self) -> None:
        """Abandon what is asked again."""
        await self._refreshes.cancel()

    def _remembered(
        self, conversation_id: str | None, session_id: str | None, now: float, *, stale: bool
    ) -> Conversation | None:
        if conversation_id is not None:
            return self._cache.by_conversation(conversation_id, now, stale=stale)
        return None if session_id is None else self._cache.by_session(session_id, now, stale=stale)

    async def _ask(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> Lookup | Failure:
        """Return what the registry says, or why it does not answer, which closes the gate."""
        number, started = next(self._numbers), self._clock.monotonic()
        self._asked_at[number] = started
        try:
            return await self._registry.lookup(conversation_ids, session_ids)
        except AdapterError as error:
            if not self._gate.holds(error.failure):
                raise
            self._gate.close(error.failure, lambda: self._ask_again(conversation_ids, session_ids))
            return error.failure
        finally:
            del self._asked_at[number]
            self._last_took = self._clock.monotonic() - started
            self._reporter.stage("lookup", self._last_took)

    async def _ask_again(self, conversation_ids: Collection[str], session_ids: Collection[str]) -> None:
        await self._registry.lookup(conversation_ids, session_ids)

    def _is_slow(self, now: float) -> bool:
        if self._last_took > _SLOW_SECONDS:
            return True
        return bool(self._asked_at) and now - next(iter(self._asked_at.values())) > _SLOW_SECONDS

    def _refresh_soon(self, conversation_id: str) -> None:
        if self._gate.is_open and conversation_id not in self._to_refresh:
            self._to_refresh.add(conversation_id)
            self._refreshes.add([conversation_id])

    async def _refresh(self, conversation_ids: list[str]) -> None:
        try:
            found = await self._ask(conversation_ids, ())
        except Exception:  # noqa: BLE001 - a bug: once forgotten they are asked for by messages, whose failure it is
            found = Lookup({}, {})
        finally:
            self._to_refresh.difference_update(conversation_ids)
        if not isinstance(found, Failure):
            conversations, _ = self._remember(found)
            for gone in set(conversation_ids).difference(conversations):
                self._cache.forget(gone)

    def forget(self, conversation_id: str) -> None:
        """Ask the registry again next time; nobody listens to this conversation any more."""
        self._cache.forget(conversation_id)

    def _remember(self, found: Lookup) -> tuple[dict[str, Conversation], dict[str, Conversation]]:
        """Remember what was found; return it by conversation and by session."""
        now = self._clock.monotonic()
        conversations = {key: record.to_conversation() for key, record in found.by_conversation.items()}
        owners = {key: record.to_conversation() for key, record in found.by_session.items()}
        owned: dict[str, list[str]] = {}
        for session_id, owner in owners.items():
            owned.setdefault(owner.id, []).append(session_id)
        for conversation in {**conversations, **{owner.id: owner for owner in owners.values()}}.values():
            self._cache.remember(conversation, now, owns=owned.get(conversation.id, ()))
        return conversations, owners

    def _fill(self, inbounds: Sequence[Inbound], found: Lookup) -> None:
        conversations, owners = self._remember(found)
        for inbound in inbounds:
            if inbound.identity.conversation_id is not None:
                inbound.conversation = conversations.get(inbound.identity.conversation_id)
            elif inbound.channel_session_id is not None:
                inbound.conversation = owners.get(inbound.channel_session_id)
            self._count_contradictions(inbound)

    def _count_contradictions(self, inbound: Inbound) -> None:
        """Count anchors that contradict each other, where both sides are known without asking for them."""
        conversation, session_id, owner = inbound.conversation, inbound.channel_session_id, None
        if conversation is None:
            return
        if session_id is not None and conversation.session(session_id) is None:
            owner = self._cache.by_session(session_id, self._clock.monotonic())
        for kind in contradictions(inbound.customer_id, conversation, owner):
            self._reporter.contradiction(kind)
