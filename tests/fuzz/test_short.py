"""The short form: a few thousand inputs from a fixed seed. `python -m tests.fuzz` is the long one."""

from __future__ import annotations

import traceback
from collections import Counter

import pytest
from hypothesis import strategies as st

from tests.fuzz.campaign import TARGETS, Broken, Target, run

INPUTS = 2000
SEED = 20_251_009


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_promise_holds_for_hostile_inputs(target: Target) -> None:
    outcomes: Counter[str] = Counter()
    for step in run(target, INPUTS * target.share // 100, SEED):
        if isinstance(step, Broken):
            pytest.fail(f"{step.given!r}\n{''.join(traceback.format_exception(step.error))[-4000:]}")
        outcomes = step.outcomes
    assert outcomes.total() >= INPUTS * target.share // 100 * 9 // 10, "too few inputs: hypothesis ran out of new ones"


def test_a_broken_promise_is_found_and_told_by_its_smallest_input() -> None:
    """The campaign itself can fail."""

    def check(number: int) -> str:
        assert number < 1000
        return "small"

    broken = list(run(Target("numbers", 100, st.integers(0, 10_000_000), check), 500, SEED))[-1]
    assert isinstance(broken, Broken)
    assert broken.given == 1000
