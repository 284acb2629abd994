"""Activities, letters and lifecycle changes made for the contract tests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from worker.cim import CimMessage
from worker.cim.canonical import event_id
from worker.conversations.conversation import ChannelSession, Fact, Room, SessionFact
from worker.conversations.lifecycle import LifecycleChange
from worker.dead_letters.letter import LetterProblem, LetterRecord, letter_id
from worker.pipeline.translate import Activity

NOW = 1_760_000_001_456


def activity(message_id: str, text: str = "hello", *, data: dict[str, Any] | None = None) -> Activity:
    """Return an activity of a closed conversation; same message id and text: same event.

    With *data*, its message is that, and a header.
    """
    content = data or {"id": message_id, "body": {"type": "PLAIN", "markdownText": text}}
    parsed = {"header": {"timestamp": NOW, "sender": {"id": "app-1", "type": "APP"}}, **content}
    message = CimMessage(
        id=message_id,
        event_id=event_id("app-1", message_id, text.encode("utf-8", "surrogatepass")),
        sender_id="app-1",
        sender_name=None,
        conversation_id="conversation-1",
        channel_session_id=None,
        customer_id=None,
        room_id=None,
        body_type="PLAIN",
        timestamp=NOW,
        size=len(text),
        parsed=parsed,
    )
    return Activity(
        NOW,
        message,
        "conversation-1",
        "customer-1",
        ChannelSession.of({"id": "session-1", "channel": {"id": "channel-1"}, "isActive": False}),
        Room.of({"id": "room-1", "mode": "CONTACT_CENTER"}),
    )


def letter(number: int, body: bytes = b"not json", **fields: Any) -> LetterRecord:
    """Return a dead letter; the same number and body: the same content."""
    return replace(
        LetterRecord(
            id=letter_id(body, f"cause-{number}"),
            code="malformed_json",
            failure_class="invalid",
            stage="decode",
            fingerprint=hashlib.sha256(b"cause").hexdigest()[:12],
            failed_at=NOW,
            recorded_at=NOW + 5,
            first_seen=NOW,
            last_seen=NOW,
            body=body,
            problems=(LetterProblem("malformed_json", "", "JSON"),),
            attempt=1,
            headers=(("cim-code", "malformed_json"), ("weird.$key", "kept")),
            properties=(("message_id", f"message-{number}"),),
        ),
        **fields,
    )


def change(
    conversation_id: str, at: int, *, state: str | None = None, session: str | None = None, customer: str | None = None
) -> LifecycleChange:
    """Return what a lifecycle event of that time says about a conversation."""
    sessions = (
        () if session is None else (SessionFact({"id": session, "state": {"name": "STARTED"}}, at, started_at=at),)
    )
    return LifecycleChange(
        conversation_id,
        "TOPIC_STATE_CHANGE_EVENT",
        at,
        state=None if state is None else Fact(state, at),
        customer_id=None if customer is None else Fact(customer, at),
        sessions=sessions,
    )
