"""The schema of a CIM message: what publishers send, and the worker takes. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.cim.bodies import BODY_MODELS
from worker.cim.models import Body, Message
from worker.schemas.generate import definitions, document
from worker.schemas.samples import MESSAGE

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

CANNOT_SAY: Final = (
    "the bytes: UTF-8, at most CIM_MAX_MESSAGE_BYTES, at most 64 levels of nesting, no key twice in an object",
    "what is in any text or number: no half surrogate pair; finite numbers, integers of 64 bits",
    "that an id of a place has at most 242 bytes of UTF-8: `maxLength` counts characters",
    "that 29 February needs a leap year, and that a time with an offset lies within the years 1 to 9999 in UTC",
    "who may send as which sender (CIM_SENDER_USERS)",
)
"""Rules of the worker that JSON Schema has no words for."""
_DESCRIPTION: Final = (
    "What a publisher sends. Open: unknown fields and unknown body types are taken and travel on unchanged. "
    "What this schema cannot say, and `cim-worker validate` does: " + "; ".join(CANNOT_SAY) + "."
)


def message_parts() -> dict[str, JsonSchema]:
    """Return the definitions of a message by name; `CimMessage` is the whole, `AnyBody` what a body may be."""
    parts = definitions(Message, *BODY_MODELS.values())
    whole = parts.pop("Message")
    whole["properties"]["body"] = {"$ref": "#/$defs/AnyBody"}
    return {"CimMessage": whole, "AnyBody": _any_body(), **parts}


def message_schema() -> JsonSchema:
    """Return the schema document."""
    parts = message_parts()
    whole = parts.pop("CimMessage")
    return document("message", "CIM message", _DESCRIPTION, whole, parts, [MESSAGE])


def _any_body() -> JsonSchema:
    types: dict[str, list[str]] = {}
    for name, model in BODY_MODELS.items():
        types.setdefault(model.__name__, []).append(name)
    conditions = [
        {
            "if": {"required": ["type"], "properties": {"type": {"enum": names}}},
            "then": {"$ref": f"#/$defs/{model}"},
        }
        for model, names in types.items()
        if model != Body.__name__
    ]
    return {
        "description": "The fields of a known type are checked; any other type is open.",
        "allOf": [{"$ref": f"#/$defs/{Body.__name__}"}, *conditions],
    }
