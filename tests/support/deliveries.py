"""Deliveries, clocks and reporters made for tests of the core."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.cim import Identity
    from worker.codes import Code
    from worker.failure import Failure
    from worker.outcome import Outcome
    from worker.ports import Confirmation, End, ReceiptResult

NOW = 1_760_000_000_000


@dataclass(eq=False)
class FakeDelivery:
    """What RabbitMQ handed us, without RabbitMQ."""

    body: bytes = b"{}"
    properties: Properties = field(default_factory=Properties)
    exchange: str = "cim.ingress"
    routing_key: str = "some.key"
    queue: str = "cim.ingress"
    redelivered: bool = False
    tag: int = 1
    received_at: float = NOW / 1000
    prior_deliveries: int = 0


def delivery(body: bytes = b"{}", headers: dict[str, Any] | None = None, **properties: Any) -> FakeDelivery:
    return FakeDelivery(body, Properties(headers=headers or {}, **properties))


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = NOW

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class RecordingReporter:
    """Reporter that remember what they were told."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.letters: list[tuple[str, int, bool]] = []
        self.identities: list[Identity] = []
        self.infos: list[tuple[str, dict[str, object]]] = []
        self.warnings: list[tuple[str, dict[str, object]]] = []
        self.down: list[str] = []
        self.up: list[str] = []
        self.contradictions: list[str] = []
        self.missed = 0
        self.receipt_results: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.ages: list[float] = []
        self.published_as: Counter[tuple[str, str]] = Counter()
        self.stages: list[str] = []
        self.retries_held = 0

    def journal_missed(self, count: int) -> None:
        self.missed += count

    def receipts(self, result: ReceiptResult, count: int) -> None:
        self.receipt_results[result.value] += count

    def settled(
        self,
        outcome: Outcome,
        seconds: float,
        code: Code | None = None,
        reason: str | None = None,
        *,
        body_type: str | None = None,  # noqa: ARG002 - fixed by Reporter
        age_seconds: float | None = None,
    ) -> None:
        assert seconds >= 0
        if age_seconds is not None:
            self.ages.append(age_seconds)
        if reason is not None:
            self.reasons[reason] += 1
        self.outcomes[outcome.value, code.value if code else ""] += 1

    def settled_all(self, outcome: Outcome, ends: Sequence[End]) -> None:
        for seconds, reason, body_type, age_seconds in ends:
            self.settled(outcome, seconds, None, reason, body_type=body_type, age_seconds=age_seconds)

    def published(self, what: str, confirmations: Sequence[Confirmation], seconds: float) -> None:
        assert seconds >= 0
        self.published_as.update((what, one.value) for one in confirmations)

    def stage(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(name)

    def batch(self, lane: str, size: int, seconds: float, **counts: int) -> None:
        assert lane
        assert size
        assert seconds >= 0
        assert all(count >= 0 for count in counts.values())
        self.done[lane] += size

    def letter(self, failure: Failure, identity: Identity, attempt: int, *, retry: bool) -> None:
        self.letters.append((failure.code.value, attempt, retry))
        self.identities.append(identity)

    def info(self, what: str, **facts: object) -> None:
        self.infos.append((what, facts))

    def warn(self, what: str, **facts: object) -> None:
        self.warnings.append((what, facts))

    def held(self) -> None:
        self.retries_held += 1

    def contradiction(self, kind: str) -> None:
        self.contradictions.append(kind)

    def dependency_down(
        self, name: str, failure: Failure, *, address: str, reason: str, outage_seconds: float | None
    ) -> None:
        assert address
        assert reason
        if outage_seconds is None:
            self.down.append(f"{name} {failure.code.value}")

    def dependency_up(self, name: str, outage_seconds: float, times: int) -> None:
        assert outage_seconds >= 0
        assert times > 0
        self.up.append(name)
