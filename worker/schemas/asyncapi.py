"""The broker's side of the contract as an AsyncAPI 3 document: channels, operations, messages. No I/O.

Made from the topology that `cim-worker topology apply` creates with the default settings, and from the schemas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from worker import contract
from worker.schemas.dead_letter import headers_schema, letter_schema
from worker.schemas.event import event_schema
from worker.schemas.generate import VERSION
from worker.schemas.journal import journal_schema
from worker.schemas.lifecycle import lifecycle_schema
from worker.schemas.message import message_schema
from worker.schemas.receipt import receipt_schema
from worker.schemas.traffic import (
    CARRIED,
    CONVERSATION,
    EXCHANGES,
    FROM_PUBLISHERS,
    ON_COPIES,
    PROPERTIES,
    QUEUES,
    RETRY,
    topology_of_defaults,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.cim.rules import JsonSchema
    from worker.rabbit.topology import Exchange, Queue, Topology

Part = dict[str, Any]

WHOLE: Final[dict[str, Callable[[], JsonSchema]]] = {
    "CimMessage": message_schema,
    "Event": event_schema,
    "OutcomeReceipt": receipt_schema,
    "JournalMessage": journal_schema,
    "DeadLetterHeaders": headers_schema,
    "DeadLetterDocument": letter_schema,
    "LifecycleEvent": lifecycle_schema,
}
"""The schema documents, by the names they have as components."""
_BINDING: Final = {"bindingVersion": "0.3.0"}
_ABOUT_A_DOCUMENT: Final = frozenset({"$schema", "$id", "version", "examples", "$defs"})


def asyncapi() -> Part:
    """Return the document."""
    topology = topology_of_defaults()
    channels = {**dict(map(_exchange, topology.exchanges)), **dict(map(_queue, topology.queues)), **_by_workers()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "cim-worker",
            "version": VERSION,
            "description": (
                "Third-party activities over RabbitMQ (AMQP 0-9-1): what publishers send, what subscribers get, and "
                "every queue and exchange between them, with the default settings. Operations are those of the worker."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:5672",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "RabbitMQ; `amqps` with TLS. Publishers declare nothing.",
                "variables": {"host": {"default": "localhost", "description": "The broker's host."}},
            }
        },
        "channels": channels,
        "operations": dict(_operations(topology)),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _exchange(exchange: Exchange) -> tuple[str, Part]:
    return f"exchange.{exchange.name}", _exchange_channel(exchange.name, exchange.type)


def _exchange_channel(name: str, kind: str, **more: object) -> Part:
    message, purpose = EXCHANGES[name]
    key = {"direct": ("conversationId", "the conversation's id"), "topic": ("routingKey", "any text")}.get(kind)
    exchange = {"name": name, "type": kind, "durable": True, "autoDelete": False}
    return {
        "address": f"{{{key[0]}}}" if key else None,
        "title": name,
        "description": purpose,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        **({"parameters": {key[0]: {"description": f"The routing key: {key[1]}."}}} if key else {}),
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, **_BINDING, **more}},
    }


def _queue(queue: Queue) -> tuple[str, Part]:
    shape: Part = {"x-arguments": queue.arguments}
    if queue.bound_to:
        shape["x-bound-to"] = [{"exchange": name, "routingKey": "#"} for name in queue.bound_to]
    return f"queue.{queue.name}", _queue_channel(queue.name, exclusive=False, **shape)


def _queue_channel(name: str, *, exclusive: bool, **more: object) -> Part:
    message, purpose = QUEUES[RETRY if name.startswith(RETRY) else name]
    queue = {"name": name, "durable": not exclusive, "exclusive": exclusive, "autoDelete": False}
    return {
        "address": name,
        "title": name,
        "description": purpose,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"amqp": {"is": "queue", "queue": queue, **_BINDING, **more}},
    }


def _by_workers() -> Part:
    """Return what the workers make while they run, and where receipts go."""
    bound = {"x-bound-to": [{"exchange": contract.HUB, "routingKey": "{conversationId}"}]}
    return {
        "exchange.conversation": _exchange_channel(CONVERSATION, "fanout", **bound),
        f"queue.{contract.RECONCILER}": _queue_channel(contract.RECONCILER, exclusive=True),
        "receipts": {
            "address": None,
            "title": "receipts",
            "description": "Where the publisher's `reply_to` says, through the default exchange.",
            "messages": {"receipt": {"$ref": "#/components/messages/receipt"}},
        },
    }


def _operations(topology: Topology) -> Iterator[tuple[str, Part]]:
    """Yield what the worker does."""
    reply = {
        "address": {"location": "$message.header#/reply_to", "description": "The AMQP property `reply_to`."},
        "channel": {"$ref": "#/channels/receipts"},
        "messages": [{"$ref": "#/channels/receipts/messages/receipt"}],
    }
    ingress = f"queue.{contract.INGRESS}"
    yield "takeActivity", {**_operation("receive", ingress, "activity", "Take activities."), "reply": reply}
    yield "sendEvent", _operation("send", f"exchange.{contract.HUB}", "event", "Send an activity's event live.")
    waiting = f"queue.{contract.WAITING}"
    yield "keepWaiting", _operation("send", waiting, "activityAgain", "Let an activity wait for the store.")
    yield "takeWaiting", _operation("receive", waiting, "activityAgain", "Take what waited for the store.")
    for queue in topology.queues:
        if queue.name.startswith(RETRY):
            delay = queue.name.removeprefix(RETRY)
            summary = f"Try an activity again after {delay}."
            yield f"retryAfter{delay}", _operation("send", f"queue.{queue.name}", "activityAgain", summary)
    letters = contract.DEAD_LETTERS
    yield "giveUp", _operation("send", f"exchange.{letters}", "deadLetter", "Give an activity up.")
    yield "recordLetter", _operation("receive", f"queue.{letters}", "deadLetter", "Move dead letters to the store.")
    yield "parkLetter", _operation("send", f"queue.{contract.PARKED}", "deadLetter", "Park what no document can hold.")
    yield "noteOutcomes", _operation("send", f"queue.{contract.OUTCOMES}", "journal", "Write outcomes to the journal.")
    events = f"queue.{contract.CONVERSATION_EVENTS}"
    yield "followConversations", _operation("receive", events, "lifecycleEvent", "Learn which conversations exist.")
    reconciler = f"queue.{contract.RECONCILER}"
    yield "reconcile", _operation("receive", reconciler, "reconcile", "Compare exchanges with the registry.")


def _operation(action: str, channel: str, message: str, summary: str) -> Part:
    binding: Part = {"deliveryMode": 2, "mandatory": True} if action == "send" else {"ack": True}
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        "bindings": {"amqp": {**binding, **_BINDING}},
    }


def _messages() -> Part:
    letters: Part = {"headers": {"$ref": "#/components/schemas/DeadLetterHeaders"}}
    return {
        "activity": {
            "summary": "An activity of a third-party application.",
            **_headers(FROM_PUBLISHERS),
            **_described("activity", "CimMessage"),
        },
        "activityAgain": {
            "summary": "An activity that comes again, its body as it was.",
            **_headers(ON_COPIES),
            **_described("activityAgain"),
        },
        "event": {"summary": "The event of an activity.", **_headers(CARRIED), **_described("event", "Event")},
        "receipt": {
            "summary": "What became of one message.",
            **_type(contract.RECEIPT),
            **_described("receipt", "OutcomeReceipt"),
        },
        "journal": {
            "summary": "The outcomes of one batch.",
            **_type(contract.OUTCOMES, contentEncoding="gzip"),
            **_described("journal", "JournalMessage"),
        },
        "deadLetter": {
            "summary": "What was given up, its body as it was.",
            **letters,
            **_described("deadLetter"),
            "examples": [{"name": "deadLetter", "headers": one} for one in headers_schema()["examples"]],
        },
        "lifecycleEvent": {
            "summary": "A conversation event of the platform.",
            **_described("lifecycleEvent", "LifecycleEvent"),
        },
        "reconcile": {"summary": "A request to compare; nothing of it is read.", **_described("reconcile")},
    }


def _described(name: str, schema: str | None = None) -> Part:
    """Return what every message has; its payload is *schema*, or whatever came."""
    described: Part = {"name": name, "x-properties": PROPERTIES[name]}
    if schema is None:
        return described
    examples = enumerate(WHOLE[schema]()["examples"], 1)
    return {
        **described,
        "payload": {"$ref": f"#/components/schemas/{schema}"},
        "examples": [{"name": f"{name}{number}", "payload": one} for number, one in examples],
    }


def _headers(headers: dict[str, JsonSchema]) -> Part:
    return {"headers": {"type": "object", "properties": _as_component(headers)}}


def _type(message_type: str, **more: str) -> Part:
    return {"bindings": {"amqp": {"messageType": message_type, **more, **_BINDING}}}


def _schemas() -> dict[str, JsonSchema]:
    """Return all schemas and their parts as components. Raises ValueError when two parts differ under one name."""
    parts: dict[str, JsonSchema] = {}
    whole: dict[str, JsonSchema] = {}
    for name, make in WHOLE.items():
        document = _as_component(make())
        whole[name] = {key: value for key, value in document.items() if key not in _ABOUT_A_DOCUMENT}
        for part, schema in document.get("$defs", {}).items():
            if parts.setdefault(part, schema) != schema:
                raise ValueError(part)
    return {**whole, **{name: part for name, part in parts.items() if name not in whole}}


def _as_component(schema: Any) -> Any:
    """Return *schema* with its references as a component's are."""
    if isinstance(schema, list):
        return [_as_component(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _as_component(value)
        for key, value in schema.items()
    }
