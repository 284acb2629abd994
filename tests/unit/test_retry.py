"""Which tier follows which attempt, and how fast."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.retry import RetryBudget, RetryPolicy

TIERS = ("1s", "10s", "1m", "10m")


@pytest.mark.parametrize(
    ("attempt", "max_attempts", "tier"),
    [
        (1, 5, "1s"),
        (2, 5, "10s"),
        (3, 5, "1m"),
        (4, 5, "10m"),
        (5, 5, None),
        (6, 5, None),
        (4, 9, "10m"),
        (8, 9, "10m"),
        (9, 9, None),
        (1, 1, None),
        (1_000_000, 5, None),
    ],
)
def test_attempt_in_tier_out(attempt: int, max_attempts: int, tier: str | None) -> None:
    assert RetryPolicy(TIERS, max_attempts).tier_after(attempt) == tier


def test_an_outage_is_waited_for_in_the_second_tier_or_the_only_one() -> None:
    assert RetryPolicy(TIERS, 5).outage_tier == "10s"
    assert RetryPolicy(("3s",), 5).outage_tier == "3s"


def test_a_second_of_retries_is_saved_up_and_no_more() -> None:
    budget = RetryBudget(10, 0.0)
    assert budget.seconds_until(10, 100.0) == 0
    assert budget.seconds_until(1, 100.0) == pytest.approx(0.1)
    assert budget.seconds_until(9, 100.0) == pytest.approx(1.0)
    assert budget.seconds_until(1, 102.0) == 0


def test_more_than_fit_a_second_wait_their_turn() -> None:
    budget = RetryBudget(10, 0.0)
    assert budget.seconds_until(200, 0.0) == pytest.approx(19.0)
    assert budget.seconds_until(1, 19.0) == pytest.approx(0.1)


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(1, 100), st.floats(0, 3)), min_size=1, max_size=30))
def test_no_stretch_of_time_sees_more_than_its_rate_and_one_second_saved(
    rate: int, steps: list[tuple[int, float]]
) -> None:
    budget, now, started = RetryBudget(rate, 0.0), 0.0, 0
    for count, pause in steps:
        now += pause
        start = now + budget.seconds_until(count, now)
        started += count
        assert started <= rate * start + rate + 1e-6
