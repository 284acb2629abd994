"""The catalogue of log events: one row each, and the operator's page is made from them.

A test finds every event in the source, and fails for one without a row here.
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


_LETTER: Final = (
    *("code", "failure_class", "stage", "pointer", "fingerprint", "attempt"),
    *("sender_id", "message_id", "conversation_id"),
)
_OUTAGE: Final = ("dependency", "address", "code", "reason")

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
    LogEvent(
        "worker_process_stuck",
        "error",
        "A worker process was told to stop and did not end, long after its time for draining; it is ended, and what it "
        "held goes to others.",
        ("process", "child_pid", "seconds"),
    ),
    LogEvent(
        "worker_end_forced",
        "error",
        "A worker process did not end when its work was done, for something it uses does not, or did not end in time "
        "after it had lost its supervisor; it has ended itself.",
        ("seconds",),
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
    LogEvent(
        "store_not_closed",
        "warning",
        "Closing the connections to the store failed at the end of a process; nothing is lost by it.",
        ("reason",),
    ),
    LogEvent(
        "store_address_unusable",
        "error",
        "The driver cannot use the address in CIM_MONGODB_URI; a pool that has just begun ends with exit code 2.",
        ("reason", "fix"),
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
    LogEvent(
        "order_given_up",
        "info",
        "Later activities of a routing key may overtake one of it (CIM_INGRESS_ORDER).",
        ("queue", "key", "reason"),
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
        "background_work_failed",
        "warning",
        "Work beside the messages ended unexpectedly; it begins again after half a minute.",
        ("task", "reason"),
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
    LogEvent(
        "dependency_up",
        "info",
        "The outage is over. After one that began within five seconds of the last one's end it is said when the "
        "dependency has held for five seconds; times is how often it failed meanwhile, if more than once.",
        ("dependency", "outage_seconds", "times"),
    ),
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
