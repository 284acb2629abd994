"""From pydantic models to JSON Schema 2020-12 as people read it. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import models_json_schema

from worker.cim.rules import RULES, JsonSchema
from worker.codes import Code
from worker.pipeline.ports import StoredBecause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VERSION: Final = "1.1.0"
"""Of all documents together. Major: no longer compatible; minor: something was added; patch: only words."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ORDER: Final = (
    *("$schema", "$id", "version", "title", "description", "$ref", "type", "const", "enum"),
    *("required", "properties", "items", "allOf", "anyOf", "if", "then", "not", "examples", "$defs"),
)
_MAPS: Final = frozenset({"properties", "$defs"})
_LISTS: Final = frozenset({"anyOf", "allOf", "oneOf"})
_SINGLE: Final = frozenset({"items", "not", "if", "then", "else"})
_MAY_BE_NULL_TOO: Final = frozenset({"type", "description", "pattern", "maxLength", "items", "required", "properties"})
_NULL: Final = {"type": "null"}

_CODES: Final = [code.value for code in Code]
SHARED: Final[dict[str, JsonSchema]] = {
    **RULES,
    "ReasonCode": {
        "description": "Why; `reasons.json` explains each. Another one may come with a later version.",
        "type": "string",
        "anyOf": [{"enum": _CODES}, {"type": "string"}],
    },
    "StoredBecause": {
        "description": "Why it was stored. Another reason may come with a later version.",
        "type": "string",
        "anyOf": [{"enum": [reason.value for reason in StoredBecause]}, {"type": "string"}],
    },
}
"""Parts that have a name of their own, in every schema that uses them."""

ReasonCode = Annotated[str, WithJsonSchema(SHARED["ReasonCode"])]
Reason = Annotated[str, WithJsonSchema(SHARED["StoredBecause"])]
OWN_ID: Final = "The publisher's own id, as far as it could be read. Of one beyond 512 bytes that much may be all."
EpochMs = Annotated[int, Field(description="Epoch milliseconds.")]
EventId = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{24}$"})]


class Document(BaseModel):
    """What the worker writes: fields may be added, so readers have to take what they do not know."""

    model_config = ConfigDict(extra="allow")


def one_of(values: Iterable[str], description: str) -> WithJsonSchema:
    """Return the schema of a text that is one of *values* today; another one may come with a later version."""
    return WithJsonSchema(
        {"description": description, "type": "string", "anyOf": [{"enum": [*values]}, {"type": "string"}]}
    )


def identifier(name: str) -> str:
    """Return the `$id` of the document *name* in this version."""
    return f"urn:cim-worker:{VERSION}:{name}"


def definitions(*models: type[BaseModel]) -> dict[str, JsonSchema]:
    """Return the schemas of *models*, and of all they use, by name."""
    _, whole = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    return {name: tidy(schema) for name, schema in whole["$defs"].items()}


def document(
    name: str, title: str, description: str, root: JsonSchema, parts: dict[str, JsonSchema], examples: Sequence[Any]
) -> JsonSchema:
    """Return a whole schema document: *root* with what it uses of *parts*, and the rules of the contract."""
    head = {"$schema": DIALECT, "$id": identifier(name), "version": VERSION, "title": title, "description": description}
    used = _used(root, {**SHARED, **parts})
    ends = {"examples": [*examples], **({"$defs": used} if used else {})}
    return in_order({**root, **head, **ends})


def tidy(schema: JsonSchema) -> JsonSchema:
    """Return *schema* without what says nothing (titles of fields, default null, open by default), rules by name."""
    kept = {
        key: _tidy_value(key, value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value is None) and not (key == "additionalProperties" and value)
    }
    kept = _merge_null(kept)
    for name, rule in SHARED.items():
        if kept.keys() == rule.keys() and {**kept, "description": rule["description"]} == rule:
            own = {"description": kept["description"]} if kept != rule else {}
            return {**own, "$ref": f"#/$defs/{name}"}
    return in_order(kept)


def in_order(schema: JsonSchema) -> JsonSchema:
    """Return *schema* with its keywords as people read them: what it is first, its parts last."""
    order = {keyword: place for place, keyword in enumerate(_ORDER)}
    return {key: schema[key] for key in sorted(schema, key=lambda key: order.get(key, order["required"] - 0.5))}


def _tidy_value(key: str, value: Any) -> Any:
    if key in _MAPS:
        return {name: tidy(part) for name, part in value.items()}
    if key in _LISTS:
        return [tidy(part) for part in value]
    if key in _SINGLE and isinstance(value, dict):
        return tidy(value)
    return value


def _merge_null(schema: JsonSchema) -> JsonSchema:
    """Write `anyOf: [string, null]` as `type: [string, null]` where both mean the same."""
    alternatives = [one for one in schema.get("anyOf", ()) if one != _NULL]
    if _NULL not in schema.get("anyOf", ()) or len(alternatives) != 1 or "type" in schema:
        return schema
    (only,) = alternatives
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if set(only) <= _MAY_BE_NULL_TOO and isinstance(only.get("type"), str):
        return {**only, **rest, "type": [only["type"], "null"]}
    if set(only) == {"type", "enum"}:
        return {**rest, "enum": [*only["enum"], None]}
    return schema


def _used(schema: JsonSchema, parts: dict[str, JsonSchema]) -> dict[str, JsonSchema]:
    found: dict[str, JsonSchema] = {}
    waiting = [*references(schema)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = parts[name]
            waiting += references(parts[name])
    return {name: found[name] for name in parts if name in found}


def references(schema: Any) -> list[str]:
    """Return the names of all definitions that *schema* refers to."""
    if isinstance(schema, list):
        return [name for part in schema for name in references(part)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("$ref")
    here = [own.removeprefix("#/$defs/")] if isinstance(own, str) else []
    return here + [name for part in schema.values() for name in references(part)]
