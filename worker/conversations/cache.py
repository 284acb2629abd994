"""What one process remembers of active conversations, for a short time. No I/O; the clock is an argument.

Only active conversations are remembered. A conversation that closed meanwhile is corrected by the broker, because its
exchange is unbound: the event comes back and is stored. So staleness can cost an outdated room or session in the
event, for as long as an entry lives, and never a message.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.conversations.conversation import Conversation

_MAX_BYTES: Final = 64 * 1024 * 1024


class ConversationCache:
    """Conversations by id and by channel session, least recently added dropped first."""

    def __init__(self, *, max_size: int, ttl_ms: int, max_bytes: int = _MAX_BYTES) -> None:
        """Keep at most *max_size* conversations, *max_bytes* together, for *ttl_ms* each; 0 switches it off."""
        self._max_size = max_size if ttl_ms else 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._ttl = ttl_ms / 1000
        self._entries: OrderedDict[str, tuple[float, Conversation]] = OrderedDict()
        self._by_session: dict[str, str] = {}
        self._owned: dict[str, float] = {}
        """Until when, in monotonic seconds, the conversation of a session is known to be its owner."""

    def __len__(self) -> int:
        return len(self._entries)

    def by_conversation(self, conversation_id: str, now: float, *, stale: bool = False) -> Conversation | None:
        """Return the conversation if it is remembered at *now* (monotonic seconds); if *stale*, beyond its time too."""
        entry = self._entries.get(conversation_id)
        return None if entry is None or (entry[0] < now and not stale) else entry[1]

    def by_session(self, session_id: str, now: float, *, stale: bool = False) -> Conversation | None:
        """Return the conversation of a channel session if it is remembered at *now*; with *stale* as above."""
        conversation_id = self._by_session.get(session_id)
        return None if conversation_id is None else self.by_conversation(conversation_id, now, stale=stale)

    def remember(self, conversation: Conversation, now: float, *, owns: Collection[str] = ()) -> None:
        """Remember an active conversation; forget one that is not.

        Of several conversations that have a channel session, the one that *owns* it, as the registry said, counts.
        """
        known_owner = {
            session.id: self._owned[session.id]
            for session in conversation.channel_sessions
            if session.id in self._owned and self._by_session[session.id] == conversation.id
        }
        self.forget(conversation.id)
        size = conversation.size
        if not self._max_size or not conversation.active or size > self._max_bytes:
            return
        self._owned |= known_owner
        while len(self._entries) >= self._max_size or self._bytes + size > self._max_bytes:
            self.forget(next(iter(self._entries)))
        self._bytes += size
        self._entries[conversation.id] = (now + self._ttl, conversation)
        for session in conversation.channel_sessions:
            if session.id in owns:
                self._owned[session.id] = now + self._ttl
            elif session.id in self._by_session and self._owned.get(session.id, now) > now:
                continue
            self._by_session[session.id] = conversation.id

    def forget(self, conversation_id: str) -> None:
        """Forget a conversation and its sessions; an unknown one is fine."""
        entry = self._entries.pop(conversation_id, None)
        if entry is not None:
            self._bytes -= entry[1].size
            for session in entry[1].channel_sessions:
                if self._by_session.get(session.id) == conversation_id:
                    del self._by_session[session.id]
                    self._owned.pop(session.id, None)
