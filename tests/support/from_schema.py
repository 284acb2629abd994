"""Documents made from a JSON Schema, and the same changed in one place: what must be taken, and what may be refused.

Knows the keywords our own schemas use, and makes a thousand documents a second; hypothesis chooses the seeds.
(hypothesis-jsonschema has had no release since early 2024 and reads no dialect newer than draft 7.)
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from worker.schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from worker.cim.rules import JsonSchema

_TEXTS = (
    *("", " \t", "\x1c", "\x85\n", "\ufeff", "a", "B7", "a b", "ü", "😀", "x" * 242, "__proto__"),
    *("0", "17", "1760000000", "1760000000123", "0253402300799999", "99999999999999", "65f0c0ffee0000000000abcd"),
    *("2025-10-09", "2024-02-29T23:59:59.123456789-11:45", "0001-01-02 00:00", "9999-12-30T12:00:00,5+0530"),
)
"""Of every kind that a pattern of ours asks for; blanks as Unicode has them."""
_ODD_TEXTS = (
    *("\x00", "a\nb", "1\n", "a\x7f", "\x9f", "x" * 243, "ü" * 122, "-1", "1.5", "٣"),
    *("253402300800000", "00000000000000001", "2025-13-01", "2025-02-30", "2025-04-31", "0000-01-01", "2025-W41-4"),
    *(
        "2025-10-09\n",
        "2025-10-09T24:00",
        "2025-10-09T10:60",
        "2025-10-09T10:00+24:00",
        "2025-10-09T10:00:00.1234567890",
    ),
)
_NUMBERS = (0, 1, -1, 2**53, -(2**53), 1.5, 1.0, -0.0, 1_760_000_000, 1_760_000_000_123)
_ODD_NUMBERS = (253_402_300_799_999, 253_402_300_800_000, -62_135_596_800_000, -62_135_596_800_001, -(10**11), 10**15)
_ANYTHING: tuple[Any, ...] = (None, True, False, 7, 1.5, 2.0, "text", "", [], ["x", None], {}, {"x": 1, "y": [{}]})
"""At least one of each type: whichever a place does not take is wrong there."""
VALUES = (*_ANYTHING, *_TEXTS, *_ODD_TEXTS, *_NUMBERS, *_ODD_NUMBERS)
"""Everything that is put into documents."""
_NAMES = ("object", "array", "string", "integer", "number", "boolean", "null")
_SOMETIMES = 0.3


class Schema:
    """A schema document that gives documents and verdicts."""

    def __init__(self, document: JsonSchema) -> None:
        self.document = document
        self._validator = Draft202012Validator(document)

    def check(self) -> None:
        """Raise `SchemaError` unless the document is a valid schema of draft 2020-12."""
        Draft202012Validator.check_schema(self.document)

    def accepts(self, value: Any) -> bool:
        """Tell whether *value* is valid."""
        return bool(self._validator.is_valid(value))

    def errors(self, value: Any) -> list[str]:
        """Return what is wrong with *value*, each with its place."""
        return [f"{error.json_path}: {error.message[:200]}" for error in self._validator.iter_errors(value)]

    def checked(self, value: Any) -> Any:
        """Return *value*; raise `AssertionError` with what is wrong with it."""
        errors = self.errors(value)
        assert errors == [], (errors, value)
        return value

    def make(self, random: Random) -> Any:
        """Return a valid document."""
        for _ in range(100):
            made = self._make(self.document, random)
            if self.accepts(made):
                return made
        raise AssertionError(f"nothing valid can be made: {self.errors(made)}")

    def _resolved(self, schema: JsonSchema) -> JsonSchema:
        while "$ref" in schema:
            schema = self.document["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        return schema

    def _make(self, schema: JsonSchema, random: Random) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        if "allOf" in schema or "anyOf" in schema:
            return self._make(random.choice([one for one in self._variants(schema) if one.get("type") != []]), random)
        if "type" not in schema:
            return copy.deepcopy(random.choice(_ANYTHING))
        return self._of_type(random.choice(_types(schema)), schema, random)

    def _variants(self, schema: JsonSchema) -> Iterator[JsonSchema]:
        """Yield *schema* with one of its alternatives; of conditions, with none and with each."""
        plain = {key: value for key, value in schema.items() if key not in {"anyOf", "allOf"}}
        for one in schema.get("allOf", ()):
            if "if" not in one:
                plain = self._merged(plain, one)
        if "anyOf" in schema:
            yield from (self._merged(plain, one) for one in schema["anyOf"])
            return
        yield plain
        for one in schema["allOf"]:
            if "if" in one:
                yield self._merged(self._merged(plain, one["if"]), one["then"])

    def _merged(self, one: JsonSchema, other: JsonSchema) -> JsonSchema:
        """Return what both say; no type at all where they contradict each other."""
        one, other = self._resolved(one), self._resolved(other)
        mine, others = one.get("properties", {}), other.get("properties", {})
        both = {name: self._merged(mine[name], others[name]) for name in mine if name in others}
        merged = {
            **one,
            **other,
            "required": [*{*one.get("required", ()), *other.get("required", ())}],
            "properties": {**mine, **others, **both},
        }
        if "items" in one and "items" in other:
            merged["items"] = self._merged(one["items"], other["items"])
        if "type" in one and "type" in other:
            merged["type"] = [name for name in _NAMES if _allows(one, name) and _allows(other, name)]
        return {key: value for key, value in merged.items() if value or key not in {"required", "properties"}}

    def _of_type(self, name: str, schema: JsonSchema, random: Random) -> Any:
        if name == "object":
            return self._object(schema, random)
        if name == "array":
            return [self._make(schema.get("items", {}), random) for _ in range(random.randrange(3))]
        low, high = schema.get("minimum", -(2**53)), schema.get("maximum", 2**53)
        numbers = [*(one for one in _NUMBERS if low <= one <= high), low, high]
        choices: dict[str, list[Any]] = {
            "string": [text for text in _TEXTS if re.search(schema.get("pattern", ""), text)],
            "integer": [one for one in numbers if float(one).is_integer()],
            "number": numbers,
            "boolean": [True, False],
            "null": [None],
        }
        return random.choice(choices[name])

    def _object(self, schema: JsonSchema, random: Random) -> dict[str, Any]:
        required = schema.get("required", ())
        often = random.random()
        made = {
            name: self._make(part, random)
            for name, part in schema.get("properties", {}).items()
            if name in required or random.random() < often
        }
        for name in required:
            made.setdefault(name, copy.deepcopy(random.choice(_ANYTHING)))
        if random.random() < _SOMETIMES:
            made.setdefault(random.choice(_TEXTS), copy.deepcopy(random.choice(_ANYTHING)))
        return made


def _types(schema: JsonSchema) -> list[str]:
    types = schema["type"]
    return [types] if isinstance(types, str) else types


def _allows(schema: JsonSchema, name: str) -> bool:
    types = _types(schema)
    return name in types or (name == "integer" and "number" in types)


@lru_cache(maxsize=16)
def schema_of(name: str) -> Schema:
    """Return the schema that `cim-worker schemas NAME` prints."""
    return Schema(next(one.make() for one in SCHEMAS if one.name == name))


def changed(value: Any, random: Random) -> Any:
    """Return *value* with one member taken away, or replaced by something of any type or odd."""
    whole = copy.deepcopy(value)
    places = [*_places(whole)]
    if not places:
        return whole
    container, key = random.choice(places)
    if random.random() < _SOMETIMES:
        del container[key]
    else:
        pool = random.choice((_ANYTHING, _ANYTHING, _TEXTS, _ODD_TEXTS, _NUMBERS, _ODD_NUMBERS))
        container[key] = copy.deepcopy(random.choice(pool))
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield value, key
        yield from _places(member)
