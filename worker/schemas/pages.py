"""Pages for people: single files that ask for nothing else. No I/O but the templates beside this module."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from worker.codes import Disposition
from worker.schemas.asyncapi import WHOLE, asyncapi
from worker.schemas.reasons import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.cim.rules import JsonSchema

_THEN: Final = {
    Disposition.DEAD: "dead-lettered at once",
    Disposition.RETRIED: "retried, then dead-lettered",
    Disposition.HELD: "waits; nothing is lost or dead-lettered for this",
}
_COMPONENT: Final = "#/components/schemas/"
_WORDS: Final = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}


class Field(NamedTuple):
    """One row of the table of an object's fields."""

    name: str
    required: bool
    kind: str
    parts: list[str]
    """Schemas it is made of, to look up."""
    about: str


def reasons_page() -> str:
    """Return the catalogue of reasons as a page."""
    return _render("reasons.html", **catalogue(), then={one.value: words for one, words in _THEN.items()})


def contract_page() -> str:
    """Return the AsyncAPI document as a page."""
    document = asyncapi()
    schemas = document["components"]["schemas"]
    return _render(
        "contract.html",
        document=document,
        exchanges=_channels(document, "exchange"),
        queues=_channels(document, "queue"),
        messages=document["components"]["messages"],
        whole={name: schemas[name] for name in WHOLE},
        parts={name: schema for name, schema in schemas.items() if name not in WHOLE},
    )


def fields(schema: JsonSchema, prefix: str = "") -> Iterator[Field]:
    """Yield the fields of an object, and of the objects in it that have no name of their own."""
    required = set(schema.get("required", ()))
    for name, part in schema.get("properties", {}).items():
        parts = sorted(set(_parts(part)))
        about = part.get("description", "")
        yield Field(prefix + name, name in required, kind(part), parts, about)
        if "properties" in part:
            yield from fields(part, f"{prefix}{name}.")


def kind(schema: JsonSchema) -> str:
    """Return in words what a field takes."""
    if "const" in schema or "enum" in schema:
        return ", ".join(str(one) for one in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_COMPONENT)
    if today := known(schema):
        return f"{', '.join(today)}; others may come"
    types = schema.get("type", [])
    if types:
        listed = types if isinstance(types, list) else [types]
        return " or ".join(_word(one, schema) for one in listed)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one) for one in schema["anyOf"]))
    return "all of the rules below" if "allOf" in schema else "anything"


def _word(name: str, schema: JsonSchema) -> str:
    if name == "array" and "items" in schema:
        return f"array of {kind(schema['items'])}"
    return _WORDS.get(name, name)


def known(schema: JsonSchema) -> list[str]:
    """Return the values a text has today, where others may come."""
    return [str(one) for part in schema.get("anyOf", ()) for one in part.get("enum", ())]


def _parts(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for one in schema:
            yield from _parts(one)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield str(schema["$ref"]).removeprefix(_COMPONENT)
        yield from (part for key, one in schema.items() if key != "properties" for part in _parts(one))


def _channels(document: dict[str, Any], kind_: str) -> list[dict[str, Any]]:
    channels: dict[str, Any] = document["channels"]
    return [channel for name, channel in channels.items() if name.startswith(f"{kind_}.")]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("worker.schemas"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        fields=fields,
        kind=kind,
        known=known,
        prose=_prose,
        parts=lambda schema: sorted(set(_parts(schema))),
        as_json=lambda value: json.dumps(value, indent=2),
    )
    return environment


def _prose(text: str) -> Markup:
    """Return *text* with what stands between back quotes as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _render(template: str, **facts: Any) -> str:
    return _environment().get_template(template).render(**facts)
