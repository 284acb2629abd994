"""Which tier follows which failed attempt, and what is never retried or never dead."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.codes import Code, FailureClass
from worker.failure import Failure
from worker.flow.budget import Budget
from worker.pipeline.retry import Again, RetryPolicy, Verdict

TIERS = ("1s", "10s", "1m", "10m")
TRANSIENT = Failure.of(Code.PUBLISH_REJECTED)


def policy(max_attempts: int = 5, *, tiers: tuple[str, ...] = TIERS, per_second: int = 1000) -> RetryPolicy:
    return RetryPolicy(tiers, max_attempts, per_second=per_second, now=0.0)


def delay_of(retry: RetryPolicy, attempt: int) -> str:
    again = retry.after(TRANSIENT, attempt, 0.0)
    assert isinstance(again, Again)
    return again.delay


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
    again = policy(max_attempts).after(TRANSIENT, attempt, 0.0)

    assert again == (Verdict.DEAD if tier is None else Again(tier, attempt + 1))


@pytest.mark.parametrize("code", Code)
def test_the_class_of_a_failure_alone_says_whether_it_is_dead_retried_or_held(code: Code) -> None:
    """An operator's fault or an outage is never dead, wherever it is met and however often it was tried."""
    again = policy().after(Failure.of(code), 1, 0.0)
    at_the_end = policy().after(Failure.of(code), 5, 0.0)

    match code.spec.failure_class:
        case FailureClass.OPERATOR | FailureClass.OUTAGE:
            assert again is Verdict.WAIT
            assert at_the_end is Verdict.WAIT
        case FailureClass.TRANSIENT | FailureClass.UNKNOWN:
            assert again == Again("1s", 2)
            assert at_the_end is Verdict.DEAD
        case _:
            assert again is Verdict.DEAD


def test_once_more_costs_no_attempt_and_takes_the_first_tier() -> None:
    assert policy().once_more(5, 0.0) == Again("1s", 5)


def test_more_than_a_tier_takes_in_a_second_waits_in_a_later_one() -> None:
    limited = policy(per_second=2)

    tiers = [delay_of(limited, 1) for _ in range(8)]

    assert tiers == ["1s", "1s", "10s", "10s", "1m", "1m", "10m", "10m"]


def test_each_try_that_waits_in_a_later_tier_is_counted() -> None:
    deferred: list[None] = []
    limited = RetryPolicy(TIERS, 5, per_second=2, now=0.0, on_deferred=lambda: deferred.append(None))

    for _ in range(8):
        delay_of(limited, 1)

    assert len(deferred) == 6
    assert limited.after(TRANSIENT, 1, 1.0) == Again("1s", 2), "a second later there is room again"


@given(st.integers(1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=300))
def test_no_stretch_of_time_sees_more_than_its_rate_and_one_second_saved(rate: int, pauses: list[float]) -> None:
    budget, now, taken = Budget(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += budget.take(now)
        assert taken <= rate * now + rate + 1e-6


def test_what_is_not_taken_is_saved_up_for_one_second_and_no_more() -> None:
    budget = Budget(10, 0.0)

    assert [budget.take(100.0) for _ in range(11)] == [True] * 10 + [False]
    assert sum(budget.take(101.0) for _ in range(20)) == 10


def test_tiers_never_get_shorter_with_the_attempt() -> None:
    given_tiers = [TIERS.index(delay_of(policy(9), attempt)) for attempt in range(1, 9)]

    assert all(one <= other for one, other in pairwise(given_tiers))
