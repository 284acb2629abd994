"""The schema of an event: what subscribers of a conversation get. No I/O."""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, WithJsonSchema

from worker.cim.models import Sender
from worker.pipeline.translate import EVENT_NAME, EVENT_TYPE
from worker.schemas.generate import Document, EpochMs, EventId, definitions, document, one_of
from worker.schemas.message import message_parts
from worker.schemas.samples import event

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

_DESCRIPTION: Final = (
    "What the worker publishes to a live conversation. The same activity has the same `id` however often it comes: "
    "drop what you have seen before."
)
_DATA: Final[JsonSchema] = {
    "description": (
        "The message as it was sent, with what readers rely on: an id, a time in epoch milliseconds, and an array of "
        "attributes whose values are text. Where it names no customer: the `_id` of the one the registry knows."
    ),
    "allOf": [{"$ref": "#/$defs/CimMessage"}],
    "required": ["id", "header", "body"],
    "properties": {
        "id": {"$ref": "#/$defs/Text"},
        "header": {
            "type": "object",
            "required": ["sender", "timestamp", "channelData"],
            "properties": {
                "timestamp": {"type": "integer"},
                "channelData": {
                    "type": "object",
                    "required": ["additionalAttributes"],
                    "properties": {
                        "additionalAttributes": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["value"],
                                "properties": {"value": {"type": "string"}},
                            },
                        }
                    },
                },
            },
        },
    },
}


class Event(Document):
    """A CIM event that carries an activity."""

    id: Annotated[EventId, Field(description="The event id; also the AMQP property `message_id`.")]
    name: Annotated[str, one_of([EVENT_NAME], "What happened; others where CIM_EVENT_NAMES maps an intent to one.")]
    type: Annotated[str, WithJsonSchema({"const": EVENT_TYPE})]
    timestamp: Annotated[EpochMs, Field(description="Epoch milliseconds at which the worker made the event.")]
    conversationId: str
    eventEmitter: Annotated[Sender, Field(description="The sender of the message.")]
    channelSession: dict[str, Any] | None = Field(
        description="The one the message names, else the conversation's current one, as the registry knows it."
    )
    data: Annotated[dict[str, Any], WithJsonSchema(_DATA)]
    roomInfo: dict[str, Any] | None = Field(description="The conversation's room, as the registry knows it.")


def event_schema() -> JsonSchema:
    """Return the schema document."""
    parts = {**message_parts(), **definitions(Event)}
    whole = parts.pop("Event")
    return document("event", "Event of a third-party activity", _DESCRIPTION, whole, parts, [event()])
