"""Deliveries, clocks and accounts made for tests of pure code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.ports import Properties

if TYPE_CHECKING:
    from worker.codes import Code
    from worker.dead_letters.envelope import Identity, Reason
    from worker.outcome import Outcome

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


def delivery(body: bytes = b"{}", headers: dict[str, Any] | None = None, **properties: Any) -> FakeDelivery:
    return FakeDelivery(body, Properties(headers=headers or {}, **properties))


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = NOW

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Notebook:
    """Accounts that remember what they were told."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.letters: list[tuple[str, int, bool]] = []
        self.identities: list[Identity] = []
        self.troubles: list[tuple[str, dict[str, object]]] = []

    def settled(self, outcome: Outcome, seconds: float, code: Code | None = None) -> None:
        assert seconds >= 0
        self.outcomes[outcome.value, code.value if code else ""] += 1

    def batch(self, lane: str, size: int, seconds: float, **counts: int) -> None:
        assert lane
        assert size
        assert seconds >= 0
        assert all(count >= 0 for count in counts.values())
        self.done[lane] += size

    def letter(self, reason: Reason, identity: Identity, attempt: int, *, retry: bool) -> None:
        self.letters.append((reason.code.value, attempt, retry))
        self.identities.append(identity)

    def note(self, what: str, **facts: object) -> None:
        """Nothing looks at notes."""

    def trouble(self, what: str, **facts: object) -> None:
        self.troubles.append((what, facts))
