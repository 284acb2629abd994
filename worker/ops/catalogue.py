"""The catalogue of log events and metrics: one row each, and the operator's page is made from them.

A test finds every event in the source and every metric in the exposition, and fails for one without a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of the log. Every line also has `timestamp`, `level`, `event` and `pid`.

    Of lines alike (event, code and reason) a hundred within ten seconds are written; the next one after that says in
    `suppressed` how many were not.
    """

    name: str
    level: Literal["debug", "info", "warning", "error"]
    when: str
    """One sentence for the operator."""
    fields: tuple[str, ...] = ()
    """What it can carry; the unit is in the name, or it is a count."""


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


_LETTER: Final = (
    *("code", "failure_class", "stage", "pointer", "fingerprint", "attempt"),
    *("sender_id", "message_id", "conversation_id"),
)
_OUTAGE: Final = ("dependency", "address", "code", "reason")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AGES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0)

EVENTS: Final = (
    LogEvent("supervisor_started", "info", "`cim-worker run` starts its worker processes.", ("processes",)),
    LogEvent("supervisor_stopped", "info", "All worker processes have ended after a signal."),
    LogEvent(
        "worker_process_died",
        "error",
        "A worker process ended unexpectedly; it is started again after a growing pause.",
        ("process", "child_pid", "exit_code", "restart_in_seconds"),
    ),
    LogEvent(
        "worker_process_not_started",
        "error",
        "A worker process cannot be started; it is tried again with growing pauses, and reported once.",
        ("process", "reason"),
    ),
    LogEvent(
        "worker_starting",
        "info",
        "A worker process starts; addresses are host and port.",
        ("broker", "store", "prefetch", "batch_size"),
    ),
    LogEvent(
        "log_lines_dropped",
        "warning",
        "Standard error can be written again; lines were dropped while it could not.",
        ("count",),
    ),
    LogEvent(
        "worker_process_silent",
        "error",
        "A worker process has not reported for thirty seconds; it is ended and another one started.",
        ("process", "child_pid", "silent_seconds"),
    ),
    LogEvent("http_listening", "info", "The pool's HTTP port is open.", ("host", "port")),
    LogEvent(
        "http_port_unavailable",
        "warning",
        "The default HTTP port cannot be opened, or nothing can be served on one; the pool works without.",
        ("reason", "fix"),
    ),
    LogEvent(
        "http_path_unknown",
        "warning",
        "Somebody asks the pool's HTTP port for a path it does not have: a probe is configured wrongly. Once a minute.",
        ("path", "fix"),
    ),
    LogEvent(
        "gateway_listening",
        "info",
        "`cim-worker gateway` takes requests; addresses are host and port.",
        ("host", "port", "authentication", "broker"),
    ),
    LogEvent(
        "gateway_receipts_refused",
        "warning",
        "The gateway's broker user may not have a queue for receipts, so requests that want to wait are answered "
        "`accepted` at once.",
        ("queue", "reason"),
    ),
    LogEvent("gateway_stopped", "info", "The gateway has answered its last request."),
    LogEvent("gateway_tokens_read", "info", "The file of bearer tokens has changed and was read again.", ("count",)),
    LogEvent(
        "gateway_tokens_not_read",
        "warning",
        "The file of bearer tokens has changed and cannot be used; the tokens known before stay valid.",
        ("reason",),
    ),
    LogEvent(
        "gateway_keys_not_read",
        "warning",
        "The keys of signed tokens cannot be had; those known are used, and it is tried again.",
        ("source", "reason"),
    ),
    LogEvent(
        "http_clients_cut_off",
        "warning",
        "Clients of an HTTP port were answered 503 for there were too many, or cut off for being too slow; said once a "
        "minute.",
        ("server", "turned_away", "too_slow"),
    ),
    LogEvent(
        "http_request_failed",
        "error",
        "Unexpected error while a request was answered, which became a 500; said once a minute for each kind.",
        ("server", "reason", "fingerprint"),
    ),
    LogEvent(
        "paused",
        "warning",
        "An operator paused the pool: it takes nothing from ingress and the waiting room, and finishes what it holds.",
        ("by", "reason"),
    ),
    LogEvent(
        "worker_process_ended",
        "info",
        "A worker process ended in order, though nobody asked the pool to stop; it is started again.",
        ("process", "child_pid"),
    ),
    LogEvent(
        "secret_unreadable",
        "warning",
        "The file of a secret cannot be read or used now; what was read before goes on to hold. Said once.",
        ("problem",),
    ),
    LogEvent(
        "store_secret_changed",
        "info",
        "The file of CIM_MONGODB_URI holds another address: the process drains, and another one begins with it.",
    ),
    LogEvent(
        "pool_refused",
        "warning",
        "The store refuses to have the collection pools read or written: nobody can pause this process. Said once.",
        ("reason",),
    ),
    LogEvent("resumed", "info", "The pool takes messages again."),
    LogEvent(
        "consuming", "info", "The process is connected and consumes the ingress queue.", ("queue", "broker_version")
    ),
    LogEvent(
        "order_not_kept",
        "warning",
        "CIM_INGRESS_ORDER is set, and the ingress has no partitions.",
        ("fix",),
    ),
    LogEvent(
        "work",
        "info",
        "What a process did in the last ten seconds, by outcome, and how many were stored why; not said while nothing "
        "comes.",
        ("seconds", "received", "in_flight", "stored_because"),
    ),
    LogEvent(
        "batch",
        "debug",
        "A batch of deliveries, or a bundle of one lane, is done; counts that are 0 are left out.",
        ("batch", "lane", "size", "duration_ms"),
    ),
    LogEvent(
        "retry",
        "info",
        "A delivery failed and comes back later as another attempt.",
        _LETTER,
    ),
    LogEvent("dead_letter", "warning", "A delivery went to the dead letters.", _LETTER),
    LogEvent(
        "listener_failed",
        "warning",
        "A listener for outcomes failed unexpectedly; the delivery itself is unaffected.",
        ("listener", "reason"),
    ),
    LogEvent(
        "receipts_interrupted",
        "warning",
        "Receipts cannot be sent; they wait, within bounds, and are tried again with growing pauses. Once a minute.",
        ("reason",),
    ),
    LogEvent(
        "copies_refused",
        "warning",
        "The broker did not accept retries or dead letters; they are published again after a pause.",
        ("count", "queue", "reason"),
    ),
    LogEvent(
        "conversation",
        "info",
        "A lifecycle event changed a conversation's state.",
        ("conversation_id", "state", "active"),
    ),
    LogEvent(
        "conversation_state_unknown",
        "warning",
        "A lifecycle event names a state that this version does not know; it counts as active. Said once for each.",
        ("state", "conversation_id"),
    ),
    LogEvent(
        "conversation_events_interrupted",
        "warning",
        "The work on lifecycle events ended unexpectedly and begins again.",
        ("code", "reason"),
    ),
    LogEvent(
        "exchanges_reconciled",
        "info",
        "The exchanges of all active conversations were compared with the registry, and made to match.",
        ("active", "refused", "seconds"),
    ),
    LogEvent(
        "exchanges_not_reconciled",
        "warning",
        "Exchanges could not be compared with the registry; tried again every ten seconds, said once a minute.",
        ("code", "reason"),
    ),
    LogEvent(
        "conversations_expired",
        "info",
        "Conversations of which nothing was heard for CIM_CONVERSATION_EXPIRY were closed.",
        ("count", "first"),
    ),
    LogEvent(
        "conversation_unreadable",
        "warning",
        "A record of the registry cannot be read and counts as an unknown conversation; said once a minute.",
        ("conversation_id", "problem"),
    ),
    LogEvent(
        "conversation_exchange_refused",
        "warning",
        "A conversation's exchange cannot be opened or unbound; said once a minute for each reason.",
        ("conversation_id", "code", "reason"),
    ),
    LogEvent(
        "conversation_exchange_kept",
        "warning",
        "The exchange of a closed conversation cannot be deleted; it is tried again in a minute if it is ours.",
        ("conversation_id", "code", "reason"),
    ),
    LogEvent(
        "dependency_down",
        "error",
        "An outage of the broker or the store began; address is host and port. Connected and without progress is one.",
        _OUTAGE,
    ),
    LogEvent(
        "dependency_still_down",
        "warning",
        "The outage lasts; once a minute.",
        (*_OUTAGE, "outage_seconds"),
    ),
    LogEvent("dependency_up", "info", "The outage is over.", ("dependency", "outage_seconds")),
    LogEvent(
        "topology_differs",
        "warning",
        "A queue, exchange or binding is not as the worker would create it, or a policy loses messages; seen at start.",
        ("name", "difference", "fix"),
    ),
    LogEvent(
        "recording_interrupted",
        "warning",
        "Dead letters could not be recorded; they stay in their queue until the next round. Once a minute.",
        ("code", "reason"),
    ),
    LogEvent(
        "letters_full",
        "warning",
        "There are CIM_MAX_LETTERS or more in dead_letters: letters stay in their queue. Once a minute.",
        ("letters", "limit"),
    ),
    LogEvent(
        "replay_outcomes_missed",
        "warning",
        "Outcomes of replays could not be written to their letters; the desk finds them in journal and store. Once a "
        "minute.",
        ("count",),
    ),
    LogEvent(
        "management_unavailable",
        "warning",
        "The broker's management API could not be asked about bindings and policies; work goes on.",
        ("reason",),
    ),
    LogEvent(
        "store_indexes_missing",
        "warning",
        "The platform's collection has none of these indexes, which searches by people need; seen at start.",
        ("collection", "indexes", "fix"),
    ),
    LogEvent(
        "store_index_refused",
        "warning",
        "The store did not create this index of a collection of ours; work goes on, lookups may be slow.",
        ("collection", "index", "reason"),
    ),
    LogEvent(
        "store_indexes_unknown",
        "warning",
        "The worker could not see which indexes a collection has, or all of them (empty); work goes on.",
        ("collection", "reason"),
    ),
    LogEvent(
        "session_ended",
        "info",
        "A connection ended; the broker delivers again what was not acknowledged.",
        ("redelivered_later",),
    ),
    LogEvent("drained", "info", "The process finished its work after a signal.", ("finished", "handed_back")),
    LogEvent(
        "worker_stopped",
        "info",
        "A worker process ends; with the number of deliveries in each outcome since it started.",
        ("received",),
    ),
    LogEvent(
        "variable_not_read",
        "warning",
        "An environment variable looks like a setting but is none.",
        ("variable", "did_you_mean"),
    ),
)

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
        "Keys whose order was given up (CIM_INGRESS_ORDER): 100 messages, or 60 s, behind a retry.",
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
