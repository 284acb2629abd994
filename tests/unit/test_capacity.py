"""The forecast of `cim-worker capacity`: what goes in comes out, and the autoscaler does what KEDA was seen to do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.flow.capacity import Point, Scaling, arriving, fewest_pods, forecast

ALONE = Scaling(pods=1, max_pods=1)


def test_a_pod_that_takes_what_comes_leaves_nothing_waiting() -> None:
    assert all(moment.waiting == 0 for moment in forecast([Point(0, 100)], 100, ALONE, seconds=60))


def test_a_backlog_is_done_after_as_long_as_it_takes_and_its_oldest_message_is_as_old_as_that() -> None:
    moments = forecast([Point(0, 50)], 100, ALONE, seconds=60, waiting=1000)

    assert [moment.waiting for moment in moments[:2]] == [950, 900]
    assert next(moment.second for moment in moments if moment.waiting == 0) == 20
    assert moments[9].oldest_seconds == pytest.approx(10 - 0, abs=0.01)  # of the first thousand some are left
    assert moments[11].oldest_seconds == pytest.approx(12 - (1200 - 1000) / 50)


def test_the_curve_is_a_line_between_its_points_and_level_outside() -> None:
    curve = [Point(10, 100), Point(20, 300)]
    assert [arriving(curve, second) for second in (0, 10, 15, 20, 99)] == [100, 100, 200, 300, 300]


@pytest.mark.parametrize(("waiting", "wanted"), [(0, 1), (350, 4), (150, 2), (100_000, 5)])
def test_as_many_pods_are_wanted_as_keda_was_seen_to_want(waiting: int, wanted: int) -> None:
    assert Scaling(pods=1, max_pods=5, messages_per_pod=100).wanted(waiting) == wanted


def test_pods_come_with_the_load_and_go_one_by_one_after_it() -> None:
    scaling = Scaling(pods=1, max_pods=8, messages_per_pod=1000, start_seconds=10)
    curve = [Point(0, 50), Point(60, 800), Point(240, 800), Point(241, 50)]
    moments = forecast(curve, 100, scaling, seconds=1500)

    assert max(moment.pods for moment in moments) == 8
    assert moments[-1].pods == 1
    falls = [one.second for one, other in pairwise(moments) if other.pods < one.pods]
    assert all(later - sooner >= 60 for sooner, later in pairwise(falls))


def test_the_fewest_pods_that_do_are_one_more_than_too_few() -> None:
    curve = [Point(0, 950)]
    enough = fewest_pods(curve, 100, seconds=300, waiting=0, limit=10)
    assert enough == 10
    assert max(one.oldest_seconds for one in forecast(curve, 100, Scaling(9, 9), seconds=300)) > 10


@given(
    rates=st.lists(st.floats(0, 5000), min_size=1, max_size=6),
    per_pod=st.floats(1, 5000),
    waiting=st.integers(0, 10_000),
)
def test_nothing_is_invented_and_nothing_forgotten(rates: list[float], per_pod: float, waiting: int) -> None:
    curve = [Point(index * 20, rate) for index, rate in enumerate(rates)]
    moments = forecast(curve, per_pod, Scaling(1, 4, 500), seconds=150, waiting=waiting)

    arrived, before = float(waiting), float(waiting)
    for moment in moments:
        arrived += moment.arriving
        assert -1e-6 <= moment.waiting <= arrived + 1e-6
        assert before + moment.arriving - moment.waiting <= moment.pods * per_pod + 1e-6
        assert 0 <= moment.oldest_seconds <= moment.second
        before = moment.waiting
