"""What travels over the broker, in words: purpose of each exchange and queue, properties and headers. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker import contract
from worker.rabbit.topology import JournalBounds, wanted
from worker.schemas.dead_letter import HEADERS
from worker.settings import Settings, delay_seconds

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema
    from worker.rabbit.topology import Topology

BROKER_VERSION: Final = (4, 0)
"""The arguments of queues are those for this RabbitMQ and newer ones."""
CONVERSATION: Final = contract.conversation_exchange("{conversationId}")
RETRY: Final = contract.retry_queue("")

EXCHANGES: Final = {
    contract.INGRESS: (
        "activity",
        "Publishers send activities here; any routing key, best the conversation's id.",
    ),
    contract.HUB: ("event", "The worker sends every live event here; the routing key is the conversation's id."),
    contract.CONVERSATION_EVENTS: (
        "lifecycleEvent",
        "The platform sends its conversation events here, with any routing key.",
    ),
    contract.DEAD_LETTERS: ("deadLetter", "The worker, and the broker itself, send here what was given up."),
    CONVERSATION: (
        "event",
        "One for each active conversation, bound to the hub. Subscribers bind queues of their own to it.",
    ),
}
"""Message and purpose of each exchange."""
QUEUES: Final = {
    contract.INGRESS: ("activity", "The workers take activities from here."),
    contract.WAITING: ("activityAgain", "Waiting room: activities that need the store while it is away or behind."),
    RETRY: ("activityAgain", "Retry tier: after its time the broker puts each message back into cim.ingress."),
    contract.OUTCOMES: ("journal", "The journal: every outcome, in a stream bounded by size and age."),
    contract.CONVERSATION_EVENTS: ("lifecycleEvent", "The workers take conversation events from here, one at a time."),
    contract.DEAD_LETTERS: ("deadLetter", "Dead letters, until a worker has recorded them in the store."),
    contract.PARKED: ("deadLetter", "Dead letters that no document can hold."),
    contract.RECONCILER: (
        "reconcile",
        "Exclusive to the process that compares exchanges with the registry; any message asks for that.",
    ),
}
"""Message and purpose of each queue; a retry tier's without its delay."""

_TEXT: Final = {"type": "string"}
FROM_PUBLISHERS: Final[dict[str, JsonSchema]] = {
    contract.RECEIPTS: {
        "description": "`all`: a receipt also tells while a retry or the waiting room holds the message.",
        "enum": ["all"],
    },
    contract.IDEMPOTENCY_KEY: {
        "description": "Of a publisher that rebuilds its message for a resend: identity is then sender id and key.",
        "type": "string",
        "maxLength": 242,
    },
    contract.TRACEPARENT: {"description": "W3C Trace Context; carried into event, retries and letter.", **_TEXT},
    contract.TRACESTATE: {"description": "W3C Trace Context; carried like `traceparent`.", **_TEXT},
}
CARRIED: Final[dict[str, JsonSchema]] = {
    contract.TRACEPARENT: {"description": "As the publisher sent it.", **_TEXT},
    contract.TRACESTATE: {"description": "As the publisher sent it.", **_TEXT},
    contract.USER_ID: {"description": "The broker user that published the message, if the broker checked it.", **_TEXT},
}
ON_COPIES: Final[dict[str, JsonSchema]] = {
    **{name: HEADERS[name] for name in (contract.CODE, contract.DETAIL, contract.ATTEMPT, contract.FINGERPRINT)},
    **{name: HEADERS[name] for name in (contract.FIRST_FAILED_AT, contract.FAILED_AT)},
    **{name: HEADERS[name] for name in (contract.ORIGIN_EXCHANGE, contract.ORIGIN_ROUTING_KEY, contract.ORIGIN_QUEUE)},
    **CARRIED,
    contract.IDEMPOTENCY_KEY: HEADERS[contract.IDEMPOTENCY_KEY],
    contract.REPLY_TO: {"description": "Where the receipt goes, from the property `reply_to`.", **_TEXT},
    contract.RECEIPTS: {"description": "As the publisher sent it.", **_TEXT},
    contract.REFUSED: {"description": "How often a subscriber's queue refused the event.", "type": "integer"},
    contract.SUSPECTED_AT: {
        "description": "When the store failed for this very message, in epoch milliseconds.",
        "type": "integer",
    },
    contract.STORED_BECAUSE: {
        "description": "Where order is kept: why it is stored when the store is back, whoever listens then.",
        **_TEXT,
    },
    contract.REPLAY_OF: {"description": "The dead letter it is a replay of.", **_TEXT},
    contract.REPLAY_JOB: {"description": "The job of the desk that replayed it.", **_TEXT},
}

_SENT: Final = {"delivery_mode": "2, persistent", "app_id": f"`{contract.APP_ID}`", "timestamp": "epoch seconds"}
PROPERTIES: Final = {
    "activity": {
        "delivery_mode": "2, persistent: anything else is lost when the broker restarts",
        "content_type": "`application/json`, or none",
        "content_encoding": "none, `gzip` or `deflate`",
        "message_id": "yours; `cim-worker explain` finds the message by it, too",
        "correlation_id": "yours; comes back on event and receipt",
        "user_id": "your broker user, checked by the broker; needed where CIM_SENDER_USERS lists the sender",
        "reply_to": "where a receipt goes: direct reply-to, or a queue whose name matches CIM_RECEIPT_QUEUES",
    },
    "activityAgain": {"message_id": "as it came, else one of ours", "delivery_mode": "2, persistent"},
    "event": {
        "message_id": "the event id: drop what you have seen before",
        "type": "the event's name",
        "correlation_id": "the publisher's, else the message's id",
        "content_type": "`application/json`",
        **_SENT,
    },
    "receipt": {
        "type": f"`{contract.RECEIPT}`",
        "correlation_id": "the message's, else its `message_id`",
        "content_type": "`application/json`",
        **_SENT,
    },
    "journal": {"type": f"`{contract.OUTCOMES}`", "content_encoding": "`gzip`", **_SENT},
    "deadLetter": {
        "message_id, correlation_id, type, app_id, timestamp, content_type, content_encoding": "as they came",
        "delivery_mode": "2, persistent",
    },
    "lifecycleEvent": {"delivery_mode": "2, persistent"},
    "reconcile": {},
}
"""AMQP properties of each message, and what is in them."""


def topology_of_defaults() -> Topology:
    """Return what `cim-worker topology apply` creates with the default settings."""
    defaults = Settings.model_construct()
    tiers = tuple((delay, delay_seconds(delay)) for delay in defaults.retry_delays)
    bounds = JournalBounds(defaults.journal_max_bytes, defaults.journal_max_days)
    return wanted(tiers, defaults.delivery_limit, BROKER_VERSION, bounds)
