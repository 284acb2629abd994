"""What is wrong with a JSON object as a CIM message: everything at once, in the order of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.cim.bodies import BODY_MODELS
from worker.cim.ids import MAX_ID_BYTES, has_control_character, is_too_long
from worker.cim.models import NUMBER_OR_TEXT_ERROR, Body, Message
from worker.cim.pointer import pointer
from worker.cim.timestamps import moment
from worker.cim.validator import Check
from worker.codes import Code, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

_Path = tuple[str | int, ...]

ANCHORS: tuple[_Path, ...] = (
    ("header", "channelSessionId"),
    ("header", "conversationId"),
    ("header", "customer", "_id"),
)
PLACE_IDS: tuple[_Path, ...] = (*ANCHORS, ("header", "roomId"))
NAME_IDS: tuple[_Path, ...] = (("id",), ("header", "sender", "id"))
"""Ids that name no place: of any length, but a line end in them is as much of a trap for logs and terminals."""
_ID_PATHS = (*NAME_IDS, *PLACE_IDS)
_SURELY_SHORT = MAX_ID_BYTES // 4

_MANDATORY: dict[_Path, tuple[Code, _Path]] = {
    ("header",): (Code.MISSING_SENDER, ("header", "sender")),
    ("header", "sender"): (Code.MISSING_SENDER, ("header", "sender")),
    ("header", "sender", "id"): (Code.MISSING_SENDER_ID, ("header", "sender", "id")),
    ("header", "sender", "type"): (Code.MISSING_SENDER_TYPE, ("header", "sender", "type")),
    ("body",): (Code.MISSING_BODY, ("body",)),
    ("body", "type"): (Code.MISSING_BODY_TYPE, ("body", "type")),
}
_TYPE_NAMES = {
    "string_type": "A string",
    "float_type": "A number",
    "int_type": "An integer",
    "bool_type": "True or false",
    "dict_type": "An object",
    "model_type": "An object",
    "list_type": "An array",
    NUMBER_OR_TEXT_ERROR: "A number or a string",
}
_MESSAGE = Check(Message)
_OPEN_BODY = Check(Body)
_BODIES = {name: Check(model) for name, model in BODY_MODELS.items()}


def find_problems(document: dict[str, Any]) -> list[Problem]:
    """Return everything in `document` that breaks the contract of a CIM message; empty when it is one."""
    # Without a body the whole lacks it too; it is reported where the contract has it: last.
    whole = _explain(_MESSAGE.errors(document), document)
    problems = [problem for problem in whole if problem.code is not Code.MISSING_BODY] if whole else whole
    header = document.get("header")
    if header is None:
        problems.append(_missing_anchor())
    elif type(header) is dict:
        _check_values(document, header, problems)
    return problems + _check_body(document.get("body"), document)


def text_at(document: object, path: Sequence[str | int]) -> str | None:
    """Return the non-blank string at `path`, or None when there is none (null, blank, absent, another type)."""
    for part in path:
        if type(document) is not dict:
            return None
        document = document.get(part)
    return document if type(document) is str and document.strip() else None


def _check_body(body: object, document: dict[str, Any]) -> list[Problem]:
    body_type = body.get("type") if type(body) is dict else None
    check = _BODIES.get(body_type, _OPEN_BODY) if type(body_type) is str else _OPEN_BODY
    return _explain(check.errors(body), document, "body")


def _check_values(document: dict[str, Any], header: dict[str, Any], problems: list[Problem]) -> None:
    if moment(header.get("timestamp"), 0) is None:
        problems.append(_problem_at(Code.INVALID_TIMESTAMP, ("header", "timestamp")))
    customer, sender = header.get("customer"), header.get("sender")
    customer_id = customer.get("_id") if type(customer) is dict else None
    places = (header.get("channelSessionId"), header.get("conversationId"), customer_id, header.get("roomId"))
    # An anchor of the wrong type is reported as such; calling it missing as well would mislead.
    mistyped = customer is not None and type(customer) is not dict
    if not mistyped and not any(map(_names_something, places[: len(ANCHORS)])):
        problems.append(_missing_anchor())
    names = (document.get("id"), sender.get("id") if type(sender) is dict else None)
    for path, value in zip(_ID_PATHS, (*names, *places), strict=True):
        if type(value) is str and (len(value) > _SURELY_SHORT or not value.isprintable()):
            _check_id(path, value, problems)


def _check_id(path: _Path, value: str, problems: list[Problem]) -> None:
    if not value.strip():
        return  # counts as absent
    if has_control_character(value):
        problems.append(_problem_at(Code.INVALID_ID, path))
    if path in PLACE_IDS and is_too_long(value):
        problems.append(_problem_at(Code.ID_TOO_LONG, path))


def _names_something(value: object) -> bool:
    return value is not None and (type(value) is not str or bool(value.strip()))


def _missing_anchor() -> Problem:
    return _problem_at(Code.MISSING_ANCHOR, ("header",))


def _problem_at(code: Code, path: _Path) -> Problem:
    return Problem(code, pointer(path), code.spec.meaning)


def _explain(errors: Sequence[ErrorDetails], document: dict[str, Any], *prefix: str) -> list[Problem]:
    return [_problem((*prefix, *error["loc"]), error, document) for error in errors]


def _problem(path: _Path, detail: ErrorDetails, document: dict[str, Any]) -> Problem:
    kind = detail["type"]
    absent = kind in {"missing", "string_pattern_mismatch"} or _is_null_member(document, path)
    if absent and path in _MANDATORY:
        code, place = _MANDATORY[path]
        return _problem_at(code, place)
    if absent:
        expected = f"Required here{_of_body_type(document)}; null counts as missing."
        return Problem(Code.MISSING_FIELD, pointer(path), expected)
    if kind == "literal_error":
        return Problem(Code.INVALID_VALUE, pointer(path), f"One of {detail['ctx']['expected']}.")
    if kind in {"value_error", "assertion_error"}:
        return Problem(Code.INVALID_VALUE, pointer(path), str(detail["ctx"]["error"]))
    return Problem(Code.WRONG_TYPE, pointer(path), f"{_TYPE_NAMES.get(kind, 'Another type of value')}.")


def _is_null_member(document: Any, path: _Path) -> bool:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else document[part]
    return document is None and isinstance(path[-1], str)


def _of_body_type(document: dict[str, Any]) -> str:
    body_type = text_at(document, ("body", "type"))
    return f" by body type {body_type}" if body_type in BODY_MODELS else ""
