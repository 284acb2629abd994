"""The pipeline over a broker and a store that are played: each delivery of a hostile batch ends exactly once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from tests.fuzz.promises import NOW, delivery_of, read_back
from tests.fuzz.shapes import CANARY
from worker.conversation_cache import ConversationCache
from worker.gate import Gate
from worker.ops.accounts import LoggedAccounts
from worker.ops.metrics import Metrics
from worker.pipeline import Pipeline, PipelineLimits
from worker.ports import Outgoing, Receipt
from worker.retry import RetryBudget, RetryPolicy
from worker.store_result import StoreResult, Written

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.activity import Activity
    from worker.lifecycle import ConversationRecord
    from worker.rabbit.consumer import Delivery

_RECEIPTS = (Receipt.CONFIRMED, Receipt.CONFIRMED, Receipt.RETURNED, Receipt.NACKED)
_LOG_LINE = 8 * 1024
"""Most characters a hostile message may cost in one line of the log."""
_NAMES = {"sender_id", "message_id", "conversation_id", "pointer"}
"""What a log line may repeat of a message: ids, and where in it the problem is."""
_TURNS = 500
"""Turns of the loop after which a batch without real I/O has long ended."""


class _Clock:
    def now_ms(self) -> int:
        return NOW

    def monotonic(self) -> float:
        return 1.0


@dataclass(frozen=True)
class _Found:
    by_conversation: dict[str, ConversationRecord]
    by_session: dict[str, ConversationRecord]


class _Registry:
    async def lookup(self, _: Collection[str], __: Collection[str]) -> _Found:
        return _Found({}, {})


class _Store:
    """Encodes nothing and gives each activity an answer that depends on its id alone."""

    async def store(self, activities: Sequence[Activity], _: int) -> list[StoreResult]:
        answers = list(Written)
        return [answers[int(one.event_id[0], 16) % len(answers)] for one in activities]


class _Publisher:
    """Writes real frames; events get any receipt, copies are confirmed."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Receipt]:
        return [self._receipt(one) for one in messages]

    def _receipt(self, outgoing: Outgoing) -> Receipt:
        on_the_wire = read_back(outgoing)
        assert on_the_wire.headers == dict(outgoing.headers or {})
        if outgoing.exchange != "cim.conversations":
            return Receipt.CONFIRMED
        return _RECEIPTS[int(outgoing.message_id[1], 16) % len(_RECEIPTS)]


def batch(deliveries: tuple[tuple[bytes, bytes], ...]) -> str:
    """Run a batch to its end: every delivery settled once and counted once, and nothing of a body in the log."""
    with capture_logs() as lines:
        outcomes = asyncio.run(_run(deliveries))
    with capture_logs():
        assert outcomes == asyncio.run(_run(deliveries)), "another outcome for the same batch"
    for line in lines:
        told = json.dumps({key: value for key, value in line.items() if key not in _NAMES}, default=repr)
        assert CANARY not in told or any(CANARY.encode() in properties for properties, _ in deliveries)
        assert len(json.dumps(line, default=repr)) < _LOG_LINE, (
            f"a line of the log grows with the message: {told[:200]}"
        )
    return "all settled"


async def _run(deliveries: Sequence[tuple[bytes, bytes]]) -> dict[str, int]:
    settled: Counter[int] = Counter()
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    metrics = Metrics()
    pipeline = _pipeline(settled, metrics)
    hostile: list[Delivery] = [delivery_of(*one) for one in deliveries]
    await pipeline.process(hostile)
    for _ in range(_TURNS):
        if len(settled) == len(hostile) or failures:
            break
        await asyncio.sleep(0)
    await pipeline.stop()
    assert not failures, failures[0].get("exception") or failures[0]["message"]
    assert settled == Counter(id(one) for one in hostile), "not every delivery was settled exactly once"
    outcomes = metrics.outcomes()
    assert sum(outcomes.values()) == len(hostile), f"the accounts do not add up: {outcomes}"
    return outcomes


def _pipeline(settled: Counter[int], metrics: Metrics) -> Pipeline:
    return Pipeline(
        registry=_Registry(),
        store=_Store(),
        publisher=_Publisher(),
        gate=Gate(
            "store", _answer, random=lambda: 0.0, clock=lambda: 1.0, on_close=lambda *_: None, on_open=lambda *_: None
        ),
        cache=ConversationCache(max_size=10, ttl_ms=1000),
        retry=RetryPolicy(("1s", "10s"), 3),
        budget=RetryBudget(1_000_000, 1.0),
        sender_users={"user-1": frozenset({"sender-1"})},
        limits=PipelineLimits(1_048_576, 50, 1 << 20, 3.0, "own"),
        clock=_Clock(),
        accounts=LoggedAccounts(metrics),
        settle=lambda delivery: settled.update([id(delivery)]),
        new_id=lambda: "0" * 24,
    )


async def _answer() -> None:
    """Answer as a healthy store does."""
