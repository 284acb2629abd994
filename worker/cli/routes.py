"""Where messages would go now: the registry is asked as a worker asks it, and the workers' own code decides."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.cli.output import progress
from worker.cli.services import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.cim import CimMessage
    from worker.cli.validate import Judged
    from worker.conversations.conversation import Conversation, ConversationRecord
    from worker.conversations.ports import Lookup
    from worker.pipeline.ports import StoredBecause
    from worker.settings import Settings

_MESSAGES_PER_QUERY: Final = 500


@dataclass(frozen=True, slots=True)
class Route:
    """Where one message would go now."""

    live: bool
    """To a conversation's exchange first; else to the store."""
    conversation_id: str | None
    state: str | None
    """Of the conversation, if the registry knows it."""
    because: StoredBecause | None
    """Why it is stored; for a live one, why it would be if no queue is bound to the exchange."""
    event_name: str
    contradictions: Sequence[str]
    """Its anchors that say something else than the conversation it belongs to."""

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` shows."""
        return {
            "destination": "conversation" if self.live else "store",
            "exchange": self._exchange if self.live else None,
            "conversation_id": self.conversation_id,
            "state": self.state,
            "stored_because": None if self.live else self.because,
            "if_nobody_listens": self.because if self.live else None,
            "event_name": self.event_name,
            "contradicting_anchors": self.contradictions,
        }

    @property
    def cells(self) -> tuple[str, str, str]:
        """Where to, why, and what else there is to say, for people."""
        notes = ", ".join(f"its {kind.replace('_', ' ')} is another conversation's" for kind in self.contradictions)
        if not self.live:
            return "the store", f"{self.because}: {_REASONS[str(self.because)]}", notes
        known = f"the conversation is {self.state}" if self.state else "the registry does not know the conversation"
        return self._exchange, f"{known}; stored if no queue is bound there", notes

    @property
    def _exchange(self) -> str:
        from worker.contract import conversation_exchange

        return conversation_exchange(self.conversation_id or "")


_REASONS = {
    "stand_alone": "it names neither a conversation nor a channel session",
    "closed": "its conversation is closed or closing",
    "unknown_session": "no conversation has its channel session",
}


async def find_routes(settings: Settings, judged: Sequence[Judged]) -> Mapping[int, Route]:
    """Return the route of each valid message by its place in *judged*. Raises `CommandError` without the store.

    The registry is asked about some hundred messages at a time, however many there are.
    """
    from worker.mongo.registry import Registry

    routes: dict[int, Route] = {}
    with progress() as bar:
        task = bar.add_task("asking the registry", total=len(judged))
        async with open_store(settings) as store:
            registry = Registry(store)
            for start in range(0, len(judged), _MESSAGES_PER_QUERY):
                some = judged[start : start + _MESSAGES_PER_QUERY]
                messages = _valid(settings, start, some)
                conversations = {one.conversation_id for one in messages.values() if one.conversation_id is not None}
                sessions = {one.channel_session_id for one in messages.values() if one.channel_session_id is not None}
                found = await registry.lookup(conversations, sessions)
                routes |= {place: _route(one, found, settings.event_names) for place, one in messages.items()}
                bar.advance(task, len(some))
    return routes


def _valid(settings: Settings, start: int, judged: Sequence[Judged]) -> dict[int, CimMessage]:
    """Return the messages that the workers would take, parsed, each by its place; *start* is that of the first."""
    from worker.cim import CimMessage, parse

    now, most = time.time_ns() // 1_000_000, settings.max_message_bytes
    parsed = (
        (place, parse(one.message.body, received_at=now, max_bytes=most)) for place, one in enumerate(judged, start)
    )
    return {place: message for place, message in parsed if isinstance(message, CimMessage)}


def _route(message: CimMessage, found: Lookup, event_names: Mapping[str, str]) -> Route:
    from worker.pipeline.ports import StoredBecause
    from worker.pipeline.translate import Destination, contradictions, place, translate

    owner = _conversation(found.by_session.get(message.channel_session_id or ""))
    named = message.conversation_id
    conversation = owner if named is None else _conversation(found.by_conversation.get(named))
    destination, because = place(message, conversation)
    activity = translate(message, conversation, now=message.timestamp, event_names=event_names)
    against = contradictions(message.customer_id, conversation, owner) if conversation is not None else ()
    live = destination is Destination.HUB
    if live:
        because = StoredBecause.NOBODY_LISTENS if conversation is not None else StoredBecause.UNKNOWN_CONVERSATION
    return Route(
        live,
        activity.conversation_id,
        str(conversation.state) if conversation is not None else None,
        because,
        activity.name,
        [str(kind) for kind in against],
    )


def _conversation(record: ConversationRecord | None) -> Conversation | None:
    return None if record is None else record.to_conversation()
