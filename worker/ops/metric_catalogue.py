"""The catalogue of metrics: one row each, and the operator's page is made from them.

A test finds every metric in the exposition, and fails for one without a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    """As scraped, without the endings of a histogram's series."""
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    """One sentence for the operator."""
    labels: tuple[str, ...] = ()
    unit: str = "count"
    merge: Literal["sum", "max", "min"] = "sum"
    """How the values of several processes become one."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AGES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0)

METRICS: Final = (
    Metric("cim_received_total", "counter", "Deliveries taken from the ingress queue and from the waiting room."),
    Metric(
        "cim_outcomes_total",
        "counter",
        "Deliveries by outcome, reason code of a failure, reason for storing, and body type (other: an unknown one).",
        ("outcome", "code", "reason", "body_type"),
    ),
    Metric("cim_journal_missed_total", "counter", "Outcomes that could not be written to the stream cim.outcomes."),
    Metric(
        "cim_retries_deferred_total",
        "counter",
        "Retries that wait in a later tier than their own, because CIM_RETRIES_PER_SECOND of that tier is used up.",
    ),
    Metric(
        "cim_moved_total",
        "counter",
        "Messages moved on from the queue cim.ingress to their partitions: retries, and what is published by its name.",
    ),
    Metric(
        "cim_order_given_up_total",
        "counter",
        "Times the order of a key was given up (CIM_INGRESS_ORDER); the line order_given_up says which and why.",
    ),
    Metric(
        "cim_retries_held_total",
        "counter",
        "Retries that waited in the process, in front of the later ones of their key (CIM_INGRESS_ORDER): they are no "
        "outcome.",
    ),
    Metric(
        "cim_receipts_total",
        "counter",
        "Receipts that publishers asked for: sent, address_refused, queue_gone, queue_refused, dropped or unknown.",
        ("result",),
    ),
    Metric("cim_in_flight", "gauge", "Deliveries received and not ended yet."),
    Metric("cim_handling_seconds", "histogram", "Time from receipt to outcome.", unit="seconds", buckets=_SECONDS),
    Metric(
        "cim_age_seconds",
        "histogram",
        "Age of a message at its final outcome, from when it happened by its publisher's clock.",
        ("outcome",),
        unit="seconds",
        buckets=_AGES,
    ),
    Metric(
        "cim_batch_size",
        "histogram",
        "Deliveries in one batch, or in one bundle of the work that follows, by lane.",
        ("lane",),
        buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
    ),
    Metric(
        "cim_stage_seconds",
        "histogram",
        "Duration of one step of a batch: read (parse, validate, translate), lookup (registry), store (write).",
        ("stage",),
        unit="seconds",
        buckets=_SECONDS,
    ),
    Metric(
        "cim_confirm_seconds",
        "histogram",
        "Time until the broker confirmed all messages published together: events, copies (retries, waiting, dead "
        "letters), journal.",
        ("published",),
        unit="seconds",
        buckets=_SECONDS,
    ),
    Metric(
        "cim_published_total",
        "counter",
        "Messages published, by what they are and what the broker said: confirmed, returned (no queue took it), "
        "nacked, too_large, unknown.",
        ("published", "result"),
    ),
    Metric("cim_paused", "gauge", "1 while an operator has the pool paused, else 0.", unit="0 or 1", merge="max"),
    Metric("cim_prefetch", "gauge", "Deliveries that the processes may hold now, all together."),
    Metric("cim_unacknowledged", "gauge", "Deliveries that the processes hold and did not acknowledge yet."),
    Metric(
        "cim_oldest_unacknowledged_seconds",
        "gauge",
        "How long the oldest of them has been held.",
        unit="seconds",
        merge="max",
    ),
    Metric(
        "cim_reconnects_total",
        "counter",
        "Sessions with the dependency after the first one of a process.",
        ("dependency",),
    ),
    Metric(
        "cim_queue_messages",
        "gauge",
        "Messages in a queue, ready and unacknowledged; the latter with CIM_RABBITMQ_MANAGEMENT_URL only. Every pool "
        "shows the same.",
        ("queue", "state"),
        merge="max",
    ),
    Metric("cim_queue_consumers", "gauge", "Consumers of a queue. Every pool shows the same.", ("queue",), merge="max"),
    Metric(
        "cim_queue_head_age_seconds",
        "gauge",
        "Age of the first message of a queue by its property timestamp, where the broker tells it: with "
        "CIM_RABBITMQ_MANAGEMENT_URL, and not for quorum queues of every version.",
        ("queue",),
        unit="seconds",
        merge="max",
    ),
    Metric(
        "cim_open_letters",
        "gauge",
        "Open dead letters in the store, by reason code; counted every thirty seconds. Every pool shows the same.",
        ("code",),
        merge="max",
    ),
    Metric(
        "cim_oldest_open_letter_seconds",
        "gauge",
        "Age of the oldest open dead letter in the store.",
        unit="seconds",
        merge="max",
    ),
    Metric(
        "cim_dependency_up",
        "gauge",
        "1 while every process of the pool can use the dependency, else 0.",
        ("dependency",),
        unit="0 or 1",
        merge="min",
    ),
    Metric("cim_outages_total", "counter", "Outages by dependency and reason code.", ("dependency", "code")),
    Metric(
        "cim_contradicting_anchors_total",
        "counter",
        "Messages that name a customer or a channel session of another conversation; the route does not depend on it.",
        ("kind",),
    ),
    Metric(
        "cim_publisher_blocked",
        "gauge",
        "1 while the broker blocks publishers (memory or disk alarm), else 0.",
        unit="0 or 1",
        merge="max",
    ),
    Metric("cim_log_lines_dropped_total", "counter", "Log lines dropped because nobody read standard error."),
    Metric("cim_build_info", "gauge", "1; its labels say what runs.", ("version", "python"), unit="1", merge="max"),
    Metric(
        "cim_processes",
        "gauge",
        "Worker processes of the pool: configured, and running (they reported since they were started).",
        ("state",),
    ),
    Metric(
        "cim_draining_seconds",
        "gauge",
        "How long the pool has been stopping; 0 while it is not. It should end within CIM_DRAIN_GRACE_MS.",
        unit="seconds",
        merge="max",
    ),
    Metric(
        "cim_process_restarts_total",
        "counter",
        "Worker processes started again because the one before died, or was silent for thirty seconds.",
        ("why",),
    ),
    Metric(
        "cim_process_cpu_seconds_total",
        "counter",
        "Processor time, by process: supervisor, or the number of the worker process.",
        ("process",),
        unit="seconds",
    ),
    Metric("cim_process_resident_memory_bytes", "gauge", "Resident memory, by process.", ("process",), unit="bytes"),
    Metric("cim_process_open_fds", "gauge", "Open file descriptors, by process.", ("process",)),
    Metric("cim_process_start_time_seconds", "gauge", "Start, by process.", ("process",), unit="seconds since 1970"),
)
GATEWAY_METRICS: Final = (
    Metric(
        "cim_gateway_requests_total",
        "counter",
        "Gateway only: requests for activities by status of the answer.",
        ("status",),
    ),
    Metric(
        "cim_gateway_request_seconds",
        "histogram",
        "Gateway only: time from a request's headers to its answer.",
        unit="seconds",
        buckets=_SECONDS,
    ),
    Metric("cim_gateway_in_flight", "gauge", "Gateway only: publishes that the broker has not confirmed yet."),
    Metric("cim_gateway_body_bytes", "gauge", "Gateway only: bytes of request bodies in memory.", unit="bytes"),
)
"""What `cim-worker gateway` exposes, beside those of the rows above that are its own as well."""

METRIC: Final = {row.name: row for row in (*METRICS, *GATEWAY_METRICS)}
