"""The numbers of a pool are those of its processes, and no count goes backwards when one of them ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from worker.flow.pause import PauseState
from worker.ops.checks import Check, of_pool
from worker.ops.metrics import Metrics
from worker.ops.pool_metrics import PoolMetrics
from worker.outcome import Outcome
from worker.process.reports import ProcessReport

if TYPE_CHECKING:
    from worker.ops.metrics import Report


def process(received: int, stored: int, *, store_up: bool = True) -> Report:
    metrics = Metrics()
    metrics.received = received
    metrics.dependency_up["store"] = store_up
    for _ in range(stored):
        metrics.count_outcome(Outcome.STORED, 0.02, None, "stand_alone")
    line = ProcessReport([], metrics.report(), None).to_line()
    return ProcessReport.from_line(line).metrics


def samples(pool: PoolMetrics) -> dict[str, float]:
    rows = [row.rpartition(" ") for row in pool.exposition().decode().splitlines() if not row.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def outcomes(found: dict[str, float]) -> float:
    return sum(value for name, value in found.items() if name.startswith("cim_outcomes_total"))


def test_counts_are_added_up_and_a_later_report_replaces_an_earlier_one() -> None:
    pool = PoolMetrics()
    pool.reported(0, process(5, 3))
    pool.reported(0, process(10, 8))
    pool.reported(1, process(20, 20))
    found = samples(pool)
    assert (found["cim_received_total"], outcomes(found), found["cim_in_flight"]) == (30, 28, 2)
    assert found["cim_handling_seconds_count"] == found['cim_handling_seconds_bucket{le="0.025"}'] == 28
    assert found['cim_handling_seconds_bucket{le="0.01"}'] == 0


def test_no_count_goes_backwards_when_a_process_ends_and_begins_again() -> None:
    pool = PoolMetrics()
    pool.reported(0, process(10, 7))
    pool.ended(0)
    pool.ended(0)  # ended before it reported again
    pool.reported(0, process(2, 1))
    found = samples(pool)
    assert found["cim_received_total"] == 12
    assert found["cim_in_flight"] == 1, "what the first one had in hand is not in hand any more"
    assert outcomes(found) + found["cim_in_flight"] == 12, "the broker took it back"
    (handed_back,) = [value for name, value in found.items() if 'outcome="handed_back"' in name]
    assert handed_back == 3


@pytest.mark.parametrize(("states", "expected"), [((True, True), 1), ((True, False), 0)])
def test_a_dependency_is_up_when_every_process_can_use_it(states: tuple[bool, bool], expected: int) -> None:
    pool = PoolMetrics()
    for index, is_up in enumerate(states):
        pool.reported(index, process(0, 0, store_up=is_up))
    assert samples(pool)['cim_dependency_up{dependency="store"}'] == expected


def test_a_report_arrives_as_it_was_sent() -> None:
    pause = PauseState(is_paused=True, by="alice", reason="maintenance", at=1)
    sent = ProcessReport([Check("broker", "away"), Check("store")], Metrics().report(), pause)
    assert ProcessReport.from_line(sent.to_line()) == sent


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([None, None], None),
        (["away", "away"], "away"),
        (["away", None], "process 0: away"),
        (["away", "slow"], "process 0: away; process 1: slow"),
    ],
)
def test_what_all_processes_say_is_said_once_and_else_it_says_whose_it_is(reasons: list[Any], expected: Any) -> None:
    checks = {index: [Check("broker", reason), Check("store")] for index, reason in enumerate(reasons)}
    assert of_pool(checks) == [Check("broker", expected), Check("store")]


def test_how_long_the_pool_has_been_stopping_is_0_while_it_is_not() -> None:
    pool = PoolMetrics()
    assert samples(pool)["cim_draining_seconds"] == 0
    pool.stopping_since = time.monotonic() - 5
    assert 5 <= samples(pool)["cim_draining_seconds"] < 60
