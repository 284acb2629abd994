"""Pauses grow with every failure and are short again after a success."""

from __future__ import annotations

import pytest

from worker.flow.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_pauses_double_up_to_the_longest() -> None:
    assert pauses(Backoff(0.2, 3, random=lambda: 1.0), 7) == pytest.approx([0.2, 0.4, 0.8, 1.6, 3, 3, 3])


def test_jitter_takes_away_up_to_half() -> None:
    assert pauses(Backoff(0.2, 3, random=lambda: 0.0), 3) == pytest.approx([0.1, 0.2, 0.4])


def test_a_success_makes_the_next_pause_the_shortest_again() -> None:
    backoff = Backoff(0.2, 3, random=lambda: 1.0)
    pauses(backoff, 5)
    backoff.reset()
    assert pauses(backoff, 2) == pytest.approx([0.2, 0.4])


def test_a_failure_that_has_lasted_for_days_overflows_nothing() -> None:
    assert pauses(Backoff(0.2, 3, random=lambda: 1.0), 100_000)[-1] == 3
