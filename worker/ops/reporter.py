"""Where the pipeline reports: numbers go to the metrics, events to the log. Never a body, never a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim import Identity
    from worker.codes import Code
    from worker.failure import Failure
    from worker.ops.metrics import Metrics
    from worker.outcome import Outcome
    from worker.ports import Confirmation, End, ReceiptResult


_MAX_ID_CHARACTERS = 256
"""Most characters of an id in one line of the log: ids come from strangers and may be a megabyte long."""


class LoggingReporter:
    """Counts and logs for one process."""

    def __init__(self, metrics: Metrics) -> None:
        """Count in *metrics*."""
        self._metrics = metrics
        self._log = structlog.get_logger().bind()  # bound once: looking up the configuration costs as much as a line
        self._batch_number = 0

    def received(self, count: int) -> None:
        """Count deliveries taken from ingress."""
        self._metrics.received += count

    def settled(
        self,
        outcome: Outcome,
        seconds: float,
        code: Code | None = None,
        reason: str | None = None,
        *,
        body_type: str | None = None,
        age_seconds: float | None = None,
    ) -> None:
        """Count one delivery's outcome."""
        self._metrics.count_outcome(outcome, seconds, code, reason, body_type=body_type, age_seconds=age_seconds)

    def settled_all(self, outcome: Outcome, ends: Sequence[End]) -> None:
        """Count deliveries that ended together."""
        self._metrics.count_outcomes(outcome, ends)

    def published(self, what: str, confirmations: Sequence[Confirmation], seconds: float) -> None:
        """Count messages that were published."""
        self._metrics.count_confirms(what, confirmations, seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Note how long one step of a batch took."""
        self._metrics.stage_seconds[name].observe(seconds)

    def journal_missed(self, count: int) -> None:
        """Count outcomes that the journal does not have."""
        self._metrics.journal_missed += count

    def receipts(self, result: ReceiptResult, count: int) -> None:
        """Count what became of receipts."""
        self._metrics.receipts[result.value] += count

    def batch(self, lane: str, size: int, seconds: float, **counts: int) -> None:
        """Log one bundle of work."""
        self._metrics.batch_sizes[lane].observe(size)
        self._batch_number += 1
        self._log.debug(
            "batch",
            batch=self._batch_number,
            lane=lane,
            size=size,
            duration_ms=round(seconds * 1000, 1),
            **{name: count for name, count in counts.items() if count},
        )

    def held(self) -> None:
        """Count a retry that waits in the process."""
        self._metrics.retries_held += 1

    def order_given_up(self, queue: str, key: str, reason: str) -> None:
        """Count and log that the order of a routing key was given up."""
        self._metrics.order_given_up += 1
        self._log.info("order_given_up", queue=queue, key=_log_safe(key), reason=reason)

    def letter(self, failure: Failure, identity: Identity, attempt: int, *, retry: bool) -> None:
        """Log one dead letter or retry, with its ids."""
        log = self._log.info if retry else self._log.warning
        log(
            "retry" if retry else "dead_letter",
            code=failure.code.value,
            failure_class=failure.failure_class.value,
            stage=failure.stage.value,
            pointer=_log_safe(failure.pointer) or None,
            fingerprint=failure.fingerprint,
            attempt=attempt,
            sender_id=_log_safe(identity.sender_id),
            message_id=_log_safe(identity.message_id),
            conversation_id=_log_safe(identity.conversation_id),
        )

    def contradiction(self, kind: str) -> None:
        """Count a message whose anchors contradict each other."""
        self._metrics.contradictions[kind] += 1

    def info(self, what: str, **facts: object) -> None:
        """Log something worth knowing."""
        self._log.info(what, **_all_log_safe(facts))

    def warn(self, what: str, **facts: object) -> None:
        """Log something an operator should see."""
        self._log.warning(what, **_all_log_safe(facts))

    def dependency_down(
        self, name: str, failure: Failure, *, address: str, reason: str, outage_seconds: float | None
    ) -> None:
        """Log and count the beginning of an outage, or log that it lasts."""
        facts = {"dependency": name, "address": address, "code": failure.code.value, "reason": reason}
        if outage_seconds is not None:
            self._log.warning("dependency_still_down", **facts, outage_seconds=round(outage_seconds, 2))
            return
        self._metrics.dependency_up[name] = False
        self._metrics.outages[name, failure.code.value] += 1
        self._log.error("dependency_down", **facts)

    def dependency_up(self, name: str, outage_seconds: float, times: int) -> None:
        """Log the end of an outage."""
        self._metrics.dependency_up[name] = True
        often = {} if times == 1 else {"times": times}
        self._log.info("dependency_up", dependency=name, outage_seconds=round(outage_seconds, 2), **often)


def _all_log_safe(facts: dict[str, object]) -> dict[str, object]:
    return {name: _log_safe(value) if isinstance(value, str) else value for name, value in facts.items()}


def _log_safe(text: str | None) -> str | None:
    """Return what a stranger wrote as a log may repeat it: bounded, and without line ends and terminal codes."""
    if text is None or (len(text) <= _MAX_ID_CHARACTERS and text.isprintable()):
        return text
    return printable(text[:_MAX_ID_CHARACTERS])
