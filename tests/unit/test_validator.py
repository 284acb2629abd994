"""The lean check of a model agrees with the model itself, which is the contract."""

import json
from typing import Annotated, Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ValidationError, field_validator, model_validator

from tests.support.examples import NAMES, document, judge, spoilt
from worker.cim import Rejected, problems
from worker.cim.bodies import BODY_MODELS
from worker.cim.models import Body, CimModel, Message
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


class Part(CimModel):
    name: str


class WithFieldValidator(Body):
    number: int | None = None

    @field_validator("number")
    @classmethod
    def _even(cls, value: int | None) -> int | None:
        if value is not None and value % 2:
            msg = "An even number."
            raise ValueError(msg)
        return value


class WithModelValidator(Body):
    one: str | None = None
    other: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_one(cls, value: Any) -> Any:
        if isinstance(value, dict) and not (value.get("one") or value.get("other")):
            msg = "One of one and other."
            raise ValueError(msg)
        return value


@pytest.mark.parametrize(
    ("model", "good", "bad", "expected"),
    [
        (WithFieldValidator, {"number": 2}, {"number": 3}, ("/body/number", "An even number.")),
        (WithModelValidator, {"other": "x"}, {}, ("/body", "One of one and other.")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_body_model_may_have_validators_of_its_own(
    model: type[Body], good: dict[str, Any], bad: dict[str, Any], expected: tuple[str, str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(problems._BODIES, "MINE", Check(model))
    assert not isinstance(judge(spoilt("body", {"type": "MINE", **good})), Rejected)
    rejected = judge(spoilt("body", {"type": "MINE", **bad}))
    assert isinstance(rejected, Rejected)
    assert [(one.code, one.pointer, one.expected) for one in rejected.problems] == [("invalid_value", *expected)]


def late(mode: str) -> type[BaseModel]:
    class Late(Body):
        if mode == "after":

            @model_validator(mode="after")
            def _check(self) -> Self:
                return self

        else:

            @model_validator(mode="wrap")
            @classmethod
            def _wrapped(cls, value: Any, handler: Any) -> Any:
                return handler(value)

    return Late


def test_a_validator_that_wants_an_instance_is_refused_at_import_by_the_name_of_its_model() -> None:
    for model in (late("after"), late("wrap")):
        with pytest.raises(TypeError, match=r"^Late has a validator of mode 'after' or 'wrap'.*mode='before'"):
            Check(model)


def test_such_a_validator_of_a_part_is_refused_as_well() -> None:
    class Whole(Body):
        parts: Annotated[list[Part] | None, AfterValidator(lambda value: value)] = None

    with pytest.raises(TypeError, match=r"^Whole has a validator"):
        Check(Whole)
