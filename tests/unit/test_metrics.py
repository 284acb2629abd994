"""The numbers of one process, as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.codes import Code
from worker.ops.metrics import Metrics
from worker.ops.pool_metrics import PoolMetrics
from worker.outcome import Outcome
from worker.ports import Confirmation


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample of the exposition by its name and sorted label values."""
    pool = PoolMetrics()
    pool.reported(0, metrics.report())
    text = pool.exposition().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_new_process_has_received_nothing_and_shows_every_total() -> None:
    found = samples(Metrics())
    assert found["cim_received_total", ()] == 0
    assert found["cim_in_flight", ()] == 0
    assert found["cim_handling_seconds_count", ()] == 0
    assert found["cim_publisher_blocked", ()] == 0


def test_received_is_the_sum_of_outcomes_and_in_flight() -> None:
    metrics = Metrics()
    metrics.received = 10
    for outcome in Outcome:
        metrics.count_outcome(outcome, 0.01, None)
    metrics.count_outcome(Outcome.DEAD, 0.01, Code.MALFORMED_JSON)
    found = samples(metrics)
    ended = sum(value for (name, _), value in found.items() if name == "cim_outcomes_total")
    assert ended == len(Outcome) + 1
    assert found["cim_received_total", ()] == ended + found["cim_in_flight", ()]
    assert found["cim_outcomes_total", ("", "", "dead", "malformed_json")] == 1
    assert metrics.outcomes() == {**dict.fromkeys(map(str, Outcome), 1), "dead": 2}


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (60.0, "60.0")])
def test_a_duration_counts_in_its_bucket_and_all_larger_ones(seconds: float, bucket: str) -> None:
    metrics = Metrics()
    metrics.count_outcome(Outcome.STORED, seconds, None)
    found = samples(metrics)
    buckets = {labels[0]: value for (name, labels), value in found.items() if name == "cim_handling_seconds_bucket"}
    assert {limit for limit, value in buckets.items() if value} == {
        limit for limit in buckets if float(limit) >= float(bucket)
    }
    assert found["cim_handling_seconds_sum", ()] == seconds


def test_a_very_long_one_is_only_in_the_last_bucket() -> None:
    metrics = Metrics()
    metrics.count_outcome(Outcome.STORED, 3600, None)
    found = samples(metrics)
    assert found["cim_handling_seconds_bucket", ("+Inf",)] == found["cim_handling_seconds_count", ()] == 1
    assert found["cim_handling_seconds_bucket", ("60.0",)] == 0


def test_outages_are_told_apart() -> None:
    metrics = Metrics()
    metrics.dependency_up |= {"store": False, "broker": True}
    metrics.outages["store", "store_unavailable"] += 1
    metrics.outages["broker", "broker_blocked"] += 2
    metrics.publisher_blocked = True
    found = samples(metrics)
    assert found["cim_dependency_up", ("store",)] == 0
    assert found["cim_dependency_up", ("broker",)] == 1
    assert found["cim_outages_total", ("store", "store_unavailable")] == 1
    assert found["cim_outages_total", ("broker", "broker_blocked")] == 2
    assert found["cim_publisher_blocked", ()] == 1


def test_a_body_type_that_nobody_knows_is_other_so_that_publishers_cannot_make_labels() -> None:
    metrics = Metrics()
    for body_type in ("PLAIN", "made-up-1", "made-up-2", None):
        metrics.count_outcome(Outcome.STORED, 0.01, None, "closed", body_type=body_type)
    found = samples(metrics)
    counts = {labels: value for (name, labels), value in found.items() if name == "cim_outcomes_total"}
    assert counts == {
        ("", "PLAIN", "closed", "stored"): 1,
        ("", "closed", "other", "stored"): 2,
        ("", "", "closed", "stored"): 1,
    }


def test_an_age_is_counted_by_outcome_and_a_publishers_fast_clock_makes_it_zero() -> None:
    metrics = Metrics()
    metrics.count_outcome(Outcome.PUBLISHED, 0.01, None, age_seconds=-3600)
    metrics.count_outcome(Outcome.PUBLISHED, 0.01, None, age_seconds=0.2)
    metrics.count_outcome(Outcome.RETRY, 0.01, Code.MALFORMED_JSON)
    found = samples(metrics)
    assert found["cim_age_seconds_count", ("published",)] == 2
    assert found["cim_age_seconds_bucket", ("0.01", "published")] == 1
    assert ("cim_age_seconds_count", ("retry",)) not in found


def test_what_the_broker_said_to_each_publish_is_counted() -> None:
    metrics = Metrics()
    metrics.count_confirms("events", [Confirmation.CONFIRMED, Confirmation.RETURNED, Confirmation.CONFIRMED], 0.02)
    metrics.count_confirms("events", [Confirmation.NACKED], 0.02)
    found = samples(metrics)
    said = {labels: value for (name, labels), value in found.items() if name == "cim_published_total"}
    assert said == {("confirmed", "events"): 2, ("events", "returned"): 1, ("events", "nacked"): 1}
    assert found["cim_confirm_seconds_count", ("events",)] == 2
