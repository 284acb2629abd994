"""Checks a value against a model at a cost that the sender of the value cannot blow up.

A hostile megabyte holds hundreds of thousands of empty objects where each lacks two fields; listing every one of
those errors takes seconds and most of a gigabyte. So a value is first checked by a validator that gives up on an
array at its first bad entry, and only from such entries on are all errors listed, for a while.

**The one trap.** The quick validator is built from the model's schema with plain dictionaries in place of models. So
what a body model may have of its own is a validator of a field, or one of the model with `mode="before"`: both get what
was sent. A model validator with `mode="after"` or `"wrap"` would get a dictionary instead of the model, and fail for
every message; it is refused when the module is imported. The text of the `ValueError` that a validator raises becomes
the problem's sentence, in headers and logs: it says what is expected, and never repeats the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import CoreConfig, SchemaValidator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

ENTRIES_LISTED = 20
"""How many entries of an array, from its first bad one on, are searched for errors."""

_CONFIG = CoreConfig(strict=True, extra_fields_behavior="ignore")
_LATE = ("function-after", "function-wrap")
_MODELS = ("model", "definition-ref")
_Path = tuple[str | int, ...]


class Check:
    """The check of one model."""

    __slots__ = ("_list_all", "_validate")

    def __init__(self, model: type[BaseModel]) -> None:
        _refuse_late_validators(model, model.__pydantic_core_schema__)
        self._list_all = model.__pydantic_validator__.validate_python
        self._validate = SchemaValidator(_lean(model.__pydantic_core_schema__), _CONFIG).validate_python

    def errors(self, value: object) -> Sequence[ErrorDetails]:
        """Return what is wrong with `value`, without its contents; empty when nothing is.

        Of an array, errors of at most `ENTRIES_LISTED` entries are listed, beginning with the first bad one.
        """
        try:
            self._validate(value)
        except ValidationError as error:
            return self._all_errors(value, _details(error))
        return ()

    def _all_errors(self, value: object, first: Sequence[ErrorDetails]) -> Sequence[ErrorDetails]:
        first_bad = {
            error["loc"][:depth]: part
            for error in first
            for depth, part in enumerate(error["loc"])
            if isinstance(part, int)
        }
        if not first_bad:
            return first  # only arrays are given up on early, so this is all there is
        try:
            self._list_all(_windowed(value, (), first_bad))
        except ValidationError as error:
            return _details(error)
        return first


def _details(error: ValidationError) -> Sequence[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)


def _windowed(value: object, path: _Path, first_bad: Mapping[_Path, int]) -> object:
    # Arrays are cut at their end only, so indexes stay what they are.
    if isinstance(value, dict):
        return {key: _windowed(member, (*path, key), first_bad) for key, member in value.items()}
    if isinstance(value, list):
        window = value[: first_bad.get(path, 0) + ENTRIES_LISTED]
        return [_windowed(entry, (*path, index), first_bad) for index, entry in enumerate(window)]
    return value


def _refuse_late_validators(model: type[BaseModel], schema: Any) -> None:
    """Raise TypeError if *schema*, of *model*, has a validator that wants an instance of a model."""
    parts = schema if isinstance(schema, list) else []
    if isinstance(schema, dict):
        parts = [part for name, part in schema.items() if name not in {"metadata", "serialization"}]
        is_late = schema.get("type") in _LATE and _holds_model(schema.get("schema"))
    else:
        is_late = False
    if is_late:
        raise TypeError(
            f"{model.__name__} has a validator of mode 'after' or 'wrap' that would get a dictionary in place of a "
            "model; use mode='before', or a validator of a single field"
        )
    for part in parts:
        _refuse_late_validators(model, part)


def _holds_model(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_holds_model, schema))
    if not isinstance(schema, dict):
        return False
    return schema.get("type") in _MODELS or any(map(_holds_model, schema.values()))


def _lean(schema: Any) -> Any:
    """Return a model's schema with arrays that fail fast, and with plain dictionaries where models would be built.

    Without instances, defaults and unknown members, which nobody reads, the check takes a third of the time; and a
    schema that names a model would be answered by that model's own validator, whatever else it says.
    """
    if isinstance(schema, list):
        return [_lean(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind == "model":
        return {**_lean(schema["schema"]), **_reference(schema)}
    if kind == "model-fields":
        fields = {name: _lean_field(field) for name, field in schema["fields"].items()}
        return {"type": "typed-dict", "fields": fields, "config": _CONFIG, **_reference(schema)}
    leaner = {name: part if name == "metadata" else _lean(part) for name, part in schema.items()}
    return {**leaner, "fail_fast": True} if kind == "list" else leaner


def _lean_field(field: Any) -> Any:
    alias = {name: field[name] for name in ("validation_alias",) if name in field}
    inner = field["schema"]
    optional = inner["type"] == "default"
    return {
        "type": "typed-dict-field",
        "schema": _lean(inner["schema"] if optional else inner),
        "required": not optional,
        **alias,
    }


def _reference(schema: Any) -> dict[str, str]:
    return {"ref": schema["ref"]} if "ref" in schema else {}
