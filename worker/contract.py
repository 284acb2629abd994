"""The names other teams build against: exchanges, queues and headers. They stay as they are."""

from __future__ import annotations

INGRESS = "cim.ingress"
"""Ingress queue, and the topic exchange in front of it."""
PARTITIONS = "cim.ingress.partitions"
"""Consistent-hash exchange between the ingress exchange and its partitions, where the ingress is partitioned."""
WAITING = "cim.ingress.waiting"
"""Waiting room: queue of deliveries that need the store while it is away or behind; no attempt is spent there."""
OUTCOMES = "cim.outcomes"
"""The journal: a stream with every outcome of the last days."""
HUB = "cim.conversations"
CONVERSATION_EVENTS = "cim.conversation-events"
RECONCILER = "cim.reconciler"
"""Exclusive queue of the process that compares conversation exchanges with the registry; any message asks it to."""
DEAD_LETTERS = "cim.dead-letters"
PARKED = "cim.dead-letters.parked"
CONVERSATION_PREFIX = "conversation."

DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."
"""How the broker begins the `reply_to` of a publisher that reads its replies without a queue."""

APP_ID = "cim-worker"
RECEIPT = "cim.receipt"
"""AMQP type of a receipt."""

ATTEMPT = "cim-attempt"
REPLAY_OF = "cim-replay-of"
"""Id of the letter that this message is a replay of."""
REPLAY_JOB = "cim-replay-job"
"""Id of the desk's job that replayed it."""
REPLY_TO = "cim-reply-to"
"""On copies of a message whose publisher asked for a receipt: where it goes."""
RECEIPTS = "cim-receipts"
"""From a publisher, and kept on copies: which receipts it wants besides the one for the final outcome."""
REFUSED = "cim-refused"
"""How often a queue of the conversation refused the event; counted apart from attempts."""
SUSPECTED_AT = "cim-suspected-at"
"""When the store failed for this message and nobody could tell whose fault that was."""
STORED_BECAUSE = "cim-stored-because"
"""Where order is kept: why a message is stored that waits for the store, whoever listens when it comes back."""
CODE = "cim-code"
CLASS = "cim-class"
STAGE = "cim-stage"
POINTER = "cim-pointer"
DETAIL = "cim-detail"
PROBLEMS = "cim-problems"
FINGERPRINT = "cim-fingerprint"
FIRST_FAILED_AT = "cim-first-failed-at"
FAILED_AT = "cim-failed-at"
ORIGIN_EXCHANGE = "cim-origin-exchange"
ORIGIN_ROUTING_KEY = "cim-origin-routing-key"
ORIGIN_QUEUE = "cim-origin-queue"
SENDER_ID = "cim-sender-id"
SENDER_NAME = "cim-sender-name"
MESSAGE_ID = "cim-message-id"
CONVERSATION_ID = "cim-conversation-id"
WORKER_VERSION = "cim-worker-version"
USER_ID = "cim-user-id"
"""The broker user that published, when the broker has checked it; kept for diagnostics."""
PUBLISH = "cim-publish"
"""Tells publishes in flight with one message id apart when the broker returns one; means nothing to anybody else."""
IDEMPOTENCY_KEY = "cim-idempotency-key"
"""From a publisher that rebuilds its message for a resend: it is known by sender id and this, not by its content."""
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

LETTER_HEADERS = (
    CODE,
    CLASS,
    STAGE,
    POINTER,
    DETAIL,
    PROBLEMS,
    FINGERPRINT,
    ATTEMPT,
    FIRST_FAILED_AT,
    FAILED_AT,
    ORIGIN_EXCHANGE,
    ORIGIN_ROUTING_KEY,
    ORIGIN_QUEUE,
    SENDER_ID,
    SENDER_NAME,
    MESSAGE_ID,
    CONVERSATION_ID,
    WORKER_VERSION,
)
"""Every header a dead letter can carry, in the order people read them."""


def partition_queue(number: int) -> str:
    """Return the name of a partition of the ingress, counted from 0."""
    return f"{INGRESS}.{number}"


def ingress_queues(partitions: int) -> tuple[str, ...]:
    """Return the queues that activities come in by: the one of an undivided ingress, and its *partitions*."""
    return INGRESS, *map(partition_queue, range(partitions))


def retry_queue(delay: str) -> str:
    """Return the name of the retry tier for a delay such as `10s`."""
    return f"{INGRESS}.retry.{delay}"


def conversation_exchange(conversation_id: str) -> str:
    """Return the name of a conversation's exchange."""
    return CONVERSATION_PREFIX + conversation_id
