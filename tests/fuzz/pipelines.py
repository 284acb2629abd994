"""The pipeline over a broker and a store that are played: each delivery of a hostile batch ends exactly once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from tests.fuzz.promises import delivery_of, read_back
from tests.fuzz.shapes import CANARY
from tests.support.pipeline_harness import PipelineHarness
from worker.ops.metrics import Metrics
from worker.ops.reporter import LoggingReporter
from worker.pipeline.ports import StoreResult, Written
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.pipeline.translate import Activity
    from worker.rabbit.consumer import Delivery

_RECEIPTS = (Confirmation.CONFIRMED, Confirmation.CONFIRMED, Confirmation.RETURNED, Confirmation.NACKED)
_LOG_LINE = 8 * 1024
"""Most characters a hostile message may cost in one line of the log."""
_NAMES = {"sender_id", "message_id", "conversation_id", "pointer"}
"""What a log line may repeat of a message: ids, and where in it the problem is."""
_TURNS = 500
"""Turns of the loop after which a batch without real I/O has long ended."""


class _Store:
    """Encodes nothing and gives each activity an answer that depends on its id alone."""

    async def store(self, activities: Sequence[Activity], _: int) -> list[StoreResult]:
        answers = list(Written)
        return [answers[int(one.event_id[0], 16) % len(answers)] for one in activities]


class _Publisher:
    """Writes real frames; events get any receipt, copies are confirmed."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        return [self._confirmation(one) for one in messages]

    def _confirmation(self, outgoing: Outgoing) -> Confirmation:
        on_the_wire = read_back(outgoing)
        assert on_the_wire.headers == dict(outgoing.headers or {})
        if outgoing.exchange != "cim.conversations":
            return Confirmation.CONFIRMED
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
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    metrics = Metrics()
    harness = PipelineHarness(
        publisher=_Publisher(),
        store=_Store(),
        reporter=LoggingReporter(metrics),
        senders={"user-1": frozenset({"sender-1"})},
        max_message_bytes=1_048_576,
        bundle=50,
    )
    hostile: list[Delivery] = [delivery_of(*one) for one in deliveries]
    await harness.pipeline.process(hostile)
    for _ in range(_TURNS):
        if len(harness.settled) == len(hostile) or failures:
            break
        await asyncio.sleep(0)
    await harness.pipeline.stop()
    assert not failures, failures[0].get("exception") or failures[0]["message"]
    settled = Counter(id(one) for one in harness.settled)
    assert settled == Counter(id(one) for one in hostile), "not every delivery was settled exactly once"
    outcomes = metrics.outcomes()
    assert sum(outcomes.values()) == len(hostile), f"the accounts do not add up: {outcomes}"
    return outcomes
