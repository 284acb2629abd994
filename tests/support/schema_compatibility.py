"""Whether one JSON Schema takes everything that another one takes, as far as our own schemas need it.

Careful: what it cannot compare counts as a difference, so it may find one too many, and none too few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from worker.cim.rules import JsonSchema

_WORDS = frozenset({"$schema", "$id", "$defs", "version", "title", "description", "examples", "default"})
_ALL_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_AT_MOST = ("maxLength", "maximum")
_AT_LEAST = ("minLength", "minimum")


def losses(before: JsonSchema, after: JsonSchema, *, apart_from: Collection[str] = ()) -> list[str]:
    """Return each rule of *after* that may refuse what *before* takes, with its place; empty if *after* takes it all.

    *apart_from* names definitions that are not compared.
    """
    return list(dict.fromkeys(_Comparison(before, after, apart_from).of(before, after, "")))


class _Comparison:
    def __init__(self, before: JsonSchema, after: JsonSchema, apart_from: Collection[str]) -> None:
        self._before = before.get("$defs", {})
        self._after = after.get("$defs", {})
        self._apart_from = apart_from
        self._compared: set[tuple[str, str]] = set()

    def of(self, before: JsonSchema, after: JsonSchema, place: str) -> Iterator[str]:
        names = (_name(before), _name(after))
        if names[1] in self._apart_from or (all(names) and names in self._compared):
            return
        if all(names):
            self._compared.add(names)
        before, after = self._effective(before), _resolved(after, self._after)
        for keyword, rule in after.items():
            if keyword not in _WORDS:
                yield from self._rule(keyword, rule, before, after, place)

    def _rule(self, keyword: str, rule: Any, before: JsonSchema, after: JsonSchema, place: str) -> Iterator[str]:
        if keyword in before and keyword != "properties" and self._same(before[keyword], rule):
            return
        match keyword:
            case "properties":
                for name, part in rule.items():
                    yield from self.of(before.get("properties", {}).get(name, {}), part, f"{place}/{name}")
            case "items":
                yield from self.of(before.get("items", {}), rule, f"{place}[]")
            case "allOf":
                for part in rule:
                    yield from self._part(before, part, place)
            case "anyOf":
                yield from self._alternatives(before, rule, place)
            case _ if not _is_looser(keyword, rule, before, after):
                yield f"{place or '/'}: {keyword}"

    def _part(self, before: JsonSchema, part: JsonSchema, place: str) -> Iterator[str]:
        if any(self._same(one, part) for one in before.get("allOf", ())):
            return
        if "if" not in part:
            yield from self.of(before, part, place)
            return
        known = [one for one in before.get("allOf", ()) if one.get("if") == part["if"]]
        if known:
            yield from self.of(known[0]["then"], part["then"], place)
        else:
            yield f"{place or '/'}: a new condition"

    def _alternatives(self, before: JsonSchema, rule: list[JsonSchema], place: str) -> Iterator[str]:
        rest = {key: value for key, value in before.items() if key != "anyOf"}
        for one in before.get("anyOf", [{}]):
            narrowed = _both(rest, _resolved(one, self._before))
            if all(
                list(_Comparison(self._defs(), self._defs(after=True), self._apart_from).of(narrowed, other, place))
                for other in rule
            ):
                yield f"{place or '/'}: anyOf"

    def _defs(self, *, after: bool = False) -> JsonSchema:
        return {"$defs": self._after if after else self._before}

    def _same(self, before: Any, after: Any) -> bool:
        return bool(_written_out(before, self._before) == _written_out(after, self._after))

    def _effective(self, schema: JsonSchema) -> JsonSchema:
        """Return *schema* with its parts that always hold written into it."""
        schema = _resolved(schema, self._before)
        for part in schema.get("allOf", ()):
            if "if" not in part:
                schema = _both(schema, self._effective(part))
        return schema


def _is_looser(keyword: str, rule: Any, before: JsonSchema, after: JsonSchema) -> bool:
    had = before.get(keyword)
    if keyword == "required":
        return set(rule) <= set(had or ())
    if keyword == "type":
        return all(_takes(_listed(rule), name) for name in _types(before))
    if keyword in {"enum", "const"}:
        values = before.get("enum", [before["const"]] if "const" in before else None)
        return values is not None and all(one in _values(after) for one in values)
    if keyword in _AT_MOST:
        return had is not None and had <= rule
    if keyword in _AT_LEAST:
        return had is not None and had >= rule
    return bool(had == rule)


def _types(schema: JsonSchema) -> list[str]:
    if "type" in schema:
        return _listed(schema["type"])
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is None:
        return [*_ALL_TYPES]
    return ["string" if isinstance(one, str) else "null" if one is None else "number" for one in values]


def _values(schema: JsonSchema) -> list[Any]:
    return list(schema.get("enum", [schema.get("const")]))


def _takes(types: list[str], name: str) -> bool:
    return name in types or (name == "integer" and "number" in types)


def _listed(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else types


def _name(schema: JsonSchema) -> str:
    return str(schema.get("$ref", "")).removeprefix("#/$defs/")


def _resolved(schema: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    while "$ref" in schema:
        schema = definitions[_name(schema)]
    return schema


def rules_of(document: JsonSchema) -> JsonSchema:
    """Return a schema document as one schema of rules, without words and definitions."""
    return dict(_written_out(document, document.get("$defs", {})))


def _written_out(value: Any, definitions: dict[str, JsonSchema]) -> Any:
    """Return a schema, a list of them, or any other value of a keyword with references replaced, and without words."""
    if isinstance(value, list):
        return [_written_out(one, definitions) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _written_out_map(one, definitions) if key == "properties" else _written_out(one, definitions)
        for key, one in _resolved(value, definitions).items()
        if key not in _WORDS
    }


def _written_out_map(schemas: dict[str, JsonSchema], definitions: dict[str, JsonSchema]) -> dict[str, JsonSchema]:
    """Return the schemas of fields, which may be called like a keyword."""
    return {name: _written_out(one, definitions) for name, one in schemas.items()}


def _both(one: JsonSchema, other: JsonSchema) -> JsonSchema:
    """Return a schema that says what both say, or less: of a rule that cannot be merged, the second's."""
    mine, others = one.get("properties", {}), other.get("properties", {})
    both = {name: {"allOf": [mine[name], others[name]]} for name in mine if name in others}
    merged = {
        **one,
        **other,
        "properties": {**mine, **others, **both},
        "required": [*one.get("required", ()), *other.get("required", ())],
        "allOf": [*one.get("allOf", ()), *other.get("allOf", ())],
    }
    if "type" in one and "type" in other:
        merged["type"] = [name for name in _ALL_TYPES if _takes(_types(one), name) and _takes(_types(other), name)]
    return {key: value for key, value in merged.items() if value or key not in {"properties", "required", "allOf"}}
