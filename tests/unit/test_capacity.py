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

    assert [moment.waiting for moment in moments[:20]] == [1000 - 50 * second for second in range(1, 21)]
    assert {moment.waiting for moment in moments[19:]} == {0}
    # For ten seconds the oldest is one of the first thousand; then one that came at 50 a second and leaves at 100.
    assert [moment.oldest_seconds for moment in moments[:19]] == [
        *range(1, 11),
        *(second - (100 * second - 1000) / 50 for second in range(11, 20)),
    ]
    assert moments[19].oldest_seconds == 0


def test_the_curve_is_a_line_between_its_points_and_level_outside() -> None:
    curve = [Point(10, 100), Point(20, 300)]
    assert [arriving(curve, second) for second in (0, 10, 15, 20, 99)] == [100, 100, 200, 300, 300]


def test_as_many_arrive_under_a_rising_curve_as_its_area_says() -> None:
    moments = forecast([Point(0, 0), Point(10, 100)], 1, ALONE, seconds=10)
    assert [moment.arriving for moment in moments] == pytest.approx([5, 15, 25, 35, 45, 55, 65, 75, 85, 95])
    assert moments[-1].waiting == pytest.approx(500 - 10)


@pytest.mark.parametrize(("waiting", "wanted"), [(0, 1), (350, 4), (150, 2), (100_000, 5)])
def test_as_many_pods_are_wanted_as_keda_was_seen_to_want(waiting: int, wanted: int) -> None:
    assert Scaling(pods=1, max_pods=5, messages_per_pod=100).wanted(waiting) == wanted


def test_each_decision_is_made_every_fifteen_seconds_and_its_pods_take_messages_ten_seconds_later() -> None:
    scaling = Scaling(pods=1, max_pods=5, messages_per_pod=100, start_seconds=10)
    moments = forecast([Point(0, 0)], 0.001, scaling, seconds=60, waiting=350)
    # Four are wanted: two more are the most at the first decision, at 0, and the fourth is of the next, at 15.
    assert [moment.pods for moment in moments] == [1] * 10 + [3] * 15 + [4] * 35


def test_at_each_decision_there_are_twice_as_many_at_most() -> None:
    scaling = Scaling(pods=4, max_pods=50, messages_per_pod=100, start_seconds=1)
    moments = forecast([Point(0, 0)], 0.001, scaling, seconds=46, waiting=10_000)
    assert [moments[second].pods for second in (0, 1, 15, 16, 30, 31, 45)] == [4, 8, 8, 16, 16, 32, 32]
    assert max(one.pods for one in forecast([Point(0, 0)], 0.001, scaling, seconds=90, waiting=10_000)) == 50


def test_pods_go_one_a_minute_after_five_minutes_in_which_fewer_were_wanted() -> None:
    scaling = Scaling(pods=1, max_pods=8, messages_per_pod=100, start_seconds=10)
    moments = forecast([Point(0, 0)], 10, scaling, seconds=700, waiting=400)
    # Four are wanted at 0, and three come at most; that is the last such wish, and it is forgotten after 300 s, at 315.
    assert [moment.waiting for moment in moments[9:16]] == [300, 270, 240, 210, 180, 150, 120]
    falls = [other.second - 1 for one, other in pairwise(moments) if other.pods < one.pods]
    assert max(moment.pods for moment in moments) == 3
    assert falls == [315, 375]
    assert moments[-1].pods == 1


@pytest.mark.parametrize(("rate", "enough"), [(900, 9), (901, 10), (950, 10)])
def test_the_fewest_pods_that_do_take_no_less_than_what_comes(rate: float, enough: int) -> None:
    assert fewest_pods([Point(0, rate)], 100, seconds=3000, waiting=0, limit=2) == enough


@pytest.mark.parametrize(("waiting", "enough"), [(1100, 1), (1101, 2), (2200, 2), (2201, 3)])
def test_a_backlog_has_the_limit_and_the_second_in_which_it_is_reached_to_be_done(waiting: int, enough: int) -> None:
    assert fewest_pods([Point(0, 0)], 100, seconds=60, waiting=waiting, limit=10) == enough


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
