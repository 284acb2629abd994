"""The schema of a lifecycle event: how the platform tells which conversations exist. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.cim.ids import MAX_ID_BYTES
from worker.cim.rules import BLANK, NO_CONTROL, NOT_BLANK
from worker.conversations.conversation import NOT_ACTIVE, ConversationState
from worker.conversations.lifecycle import (
    CUSTOMER_EVENT,
    ID_PATHS,
    SESSION_OVER_EVENTS,
    SESSION_STARTED,
    STATE_EVENTS,
)
from worker.schemas.generate import document
from worker.schemas.samples import LIFECYCLE_EVENT

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

_DESCRIPTION: Final = (
    "An event of the platform in `cim.conversation-events`. Four kinds say something about a conversation: "
    f"{', '.join(sorted(STATE_EVENTS))} (its state: {', '.join(ConversationState)}; active in all but "
    f"{' and '.join(sorted(NOT_ACTIVE))}, unknown ones included); {SESSION_STARTED}; "
    f"{', '.join(sorted(SESSION_OVER_EVENTS))}; {CUSTOMER_EVENT}. Every other event is taken and ignored. What this "
    "schema cannot say: names in lower case count as well; the rules of the bytes are those of a message, up to 8 MiB; "
    "ids count in bytes, and times in UTC."
)
_TEXT: Final[JsonSchema] = {"$ref": "#/$defs/Text"}
_ID: Final[JsonSchema] = {"$ref": "#/$defs/Id"}
_PLACE: Final[JsonSchema] = {"$ref": "#/$defs/ConversationId"}
_CONVERSATION_ID: Final[JsonSchema] = {
    "description": f"At most {MAX_ID_BYTES} bytes of UTF-8 without control characters, not blank.",
    "type": "string",
    "pattern": NOT_BLANK,
    "maxLength": MAX_ID_BYTES,
    **NO_CONTROL,
}

_ANY_ID: Final[JsonSchema] = {
    "description": "Text without control characters; a blank one, and what is no text, counts as absent.",
    "anyOf": [{"pattern": BLANK}, NO_CONTROL],
}


def lifecycle_schema() -> JsonSchema:
    """Return the schema document."""
    root: JsonSchema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"description": "What happened.", **_TEXT}},
        "allOf": [
            _event(
                STATE_EVENTS,
                _first_of("data.id", "conversationId"),
                {"data": {"type": "object", "required": ["state"], "properties": {"state": _TEXT}}},
            ),
            _event(
                {SESSION_STARTED, *SESSION_OVER_EVENTS},
                _first_of("data.conversationId", "conversationId"),
                {"data": {"type": "object", "required": ["id"], "properties": {"id": _TEXT}}},
            ),
            _event(
                {CUSTOMER_EVENT},
                _first_of("data.conversationId", "conversationId", "data.id"),
                {
                    "data": {
                        "type": "object",
                        "anyOf": [
                            *(_at(f"customer.{name}", _TEXT) for name in ("_id", "id")),
                            *(_at(name, _TEXT) for name in ("_id", "customerId")),
                        ],
                    }
                },
            ),
        ],
    }
    return document(
        "lifecycle",
        "Lifecycle event",
        _DESCRIPTION,
        root,
        {"ConversationId": _CONVERSATION_ID, "Id": _ANY_ID},
        [LIFECYCLE_EVENT],
    )


def _event(names: set[str] | frozenset[str], conversation: JsonSchema, properties: JsonSchema) -> JsonSchema:
    return {
        "if": {"required": ["name"], "properties": {"name": {"enum": sorted(names)}}},
        "then": {"required": ["data"], "properties": properties, "allOf": [conversation, _ids(), _TIME]},
    }


_TIME: Final[JsonSchema] = {
    "description": "`timestamp`; where there is none, `timeStamp`.",
    "properties": {"timestamp": {"$ref": "#/$defs/Timestamp"}},
    "anyOf": [{"required": ["timestamp"]}, {"properties": {"timeStamp": {"$ref": "#/$defs/Timestamp"}}}],
}


def _ids() -> JsonSchema:
    """Return what is true when no id of the event has a control character."""
    ids: JsonSchema = {}
    for *parents, name in ID_PATHS:
        place = ids
        for parent in parents:
            place = place.setdefault("properties", {}).setdefault(parent, {})
        place.setdefault("properties", {})[name] = _ID
    is_session = {"required": ["participantType"], "properties": {"participantType": {"const": "ChannelSession"}}}
    participant = {"if": is_session, "then": {"properties": {"id": _ID}}}
    ids["properties"]["data"]["properties"]["participants"] = {"items": {"properties": {"participant": participant}}}
    return ids


def _first_of(*paths: str) -> JsonSchema:
    """Return what is true when the first of *paths* that holds a text that is not blank holds a conversation's id."""
    alternatives = []
    for place, path in enumerate(paths):
        before = [{"not": _at(earlier, _TEXT)} for earlier in paths[:place]]
        here = _at(path, _PLACE)
        alternatives.append({"allOf": [*before, here]} if before else here)
    return {"description": f"The conversation's id: the first of {', '.join(paths)}.", "anyOf": alternatives}


def _at(path: str, schema: JsonSchema) -> JsonSchema:
    name, _, rest = path.partition(".")
    inner = {"type": "object", **_at(rest, schema)} if rest else schema
    return {"required": [name], "properties": {name: inner}}
