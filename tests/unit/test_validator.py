"""The lean check of a model agrees with the model itself, which is the contract."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.support.examples import NAMES, document, judge, spoilt
from worker.cim import Rejected
from worker.cim.bodies import BODY_MODELS
from worker.cim.models import Message
from worker.cim.validator import Check

LEAVES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.sampled_from(["", "x", "READ"])
)
ANYTHING = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from(["id", "_id", "type"]), LEAVES)


def accepts(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def mutated(draw: Any, value: Any) -> Any:
    """Return a copy of a value with a few of its parts replaced by anything."""
    if draw(st.integers(0, 12)) == 0:
        return draw(ANYTHING)
    if isinstance(value, dict):
        return {key: mutated(draw, member) for key, member in value.items()}
    return [mutated(draw, entry) for entry in value] if isinstance(value, list) else value


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_the_lean_check_accepts_exactly_what_the_contract_accepts(data: st.DataObject) -> None:
    message = document(data.draw(st.sampled_from(NAMES)))
    model = BODY_MODELS.get(message["body"]["type"], Message)
    value = mutated(data.draw, message if model is Message else message["body"])
    errors = Check(model).errors(value)
    assert (not errors) is accepts(model, value), errors
    assert all("input" not in error for error in errors)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("body", "x", "An object."),
        ("header/sender", [], "An object."),
        ("header/entities", [], "An object."),
        ("header/stamps", {}, "An array."),
        ("header/intent", 1, "A string."),
        ("header/customer/__v", "1", "An integer."),
        ("header/customer/__v", 1.5, "An integer."),
        ("header/customer", {"_id": "c", "isAnonymous": 0}, "True or false."),
        ("body", {"type": "LOCATION", "location": {"latitude": "1", "longitude": 2}}, "A number."),
        ("body", {"type": "VOICE", "callId": "c", "leg": []}, "A number or a string."),
    ],
)
def test_a_wrong_type_is_answered_with_the_right_one(path: str, value: Any, expected: str) -> None:
    result = judge(json.dumps(spoilt(path, value)).encode())
    assert isinstance(result, Rejected)
    assert [problem.expected for problem in result.problems] == [expected]
