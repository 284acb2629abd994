"""The catalogue of codes keeps its promises."""

import re

import pytest

from worker.codes import Code


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_class_a_stage_and_a_sentence(code: Code) -> None:
    spec = code.spec
    assert spec.failure_class
    assert spec.stage
    assert re.fullmatch(r"[A-Za-z].*\.", spec.meaning), "a sentence begins with a letter and ends with a full stop"


def test_codes_are_lower_snake_case_and_unique() -> None:
    values = [member.value for member in Code.__members__.values()]
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", value) for value in values)
    assert len(set(values)) == len(values)
    assert [name.lower() for name in Code.__members__] == values
