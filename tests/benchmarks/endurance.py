"""What many messages, many conversations, large messages and worst cases do to one process of ours."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.contenders import OURS
from tests.benchmarks.messages import Kind
from tests.benchmarks.stage import Loaded, Stage
from tests.benchmarks.throughput import (
    WORKLOADS,
    Result,
    between,
    check,
    numbered,
    progress,
    run,
    wait_until,
    watch,
)
from tests.services.services import private_broker

_SESSION_EXAMPLE: Final = Path(__file__).parents[2] / "schemas/examples/lifecycle/channel_session_started.json"
_LARGE_BYTES: Final = 1024 * 1024
_FEED: Final = 500
WARM_SHARE: Final = 0.3
_HALF: Final = 0.5
"""Memory is compared from here on: by then every part of the worker has been in use."""
_COMPARED_BY_ID: Final = 200_000
"""Beyond this, only the number of events is compared: taking them out again would take as long as the run."""


@dataclass(frozen=True, slots=True)
class LongRun:
    """One process working through a long queue."""

    messages: int
    early_mb: float
    """Resident memory after a tenth of the messages."""
    late_mb: float
    deep: Result
    """While nine tenths and more were still queued."""


def long_run(stage: Stage, messages: int) -> LongRun:
    """Queue *messages*, let one process work through all of them, and look at its memory and cost on the way."""
    stage.reset()
    loaded = stage.fill(numbered(stage, messages, WORKLOADS["live"]))
    with OURS.running(stage) as running:
        done = progress(stage, "live")
        start = wait_until(running, stage, messages // 100, done)
        early = wait_until(running, stage, messages // 10, done)
        late = wait_until(running, stage, messages, done)
        time.sleep(0.5)
    check(stage, loaded, OURS, "live", by_id=messages <= _COMPARED_BY_ID)
    return LongRun(messages, early.memory_mb, late.memory_mb, between(start, early, OURS.name, "live"))


def shallow_run(stage: Stage, messages: int, depth: int) -> Result:
    """Keep the queue at about *depth* messages while one process works through *messages*; only the cost counts."""
    stage.reset()
    prepared = list(numbered(stage, messages, WORKLOADS["live"]))
    loaded = Loaded()
    with OURS.running(stage) as running:
        done = progress(stage, "live")
        start = None
        while prepared:
            if stage.waiting() <= depth - _FEED:
                batch, prepared = prepared[:_FEED], prepared[_FEED:]
                for kind, ids in stage.fill(batch).expected.items():
                    loaded.expected[kind] |= ids
            if start is None and done() > messages // 10:
                start = wait_until(running, stage, 1, done)
        end = wait_until(running, stage, messages, done)
        time.sleep(0.5)
    check(stage, loaded, OURS, "live")
    assert start is not None
    return between(start, end, OURS.name, "live")


def all_returned(stage: Stage, messages: int) -> Result:
    """Run with nobody listening to any conversation: each event comes back and has to be stored.

    Their exchanges stay bound to the hub: the worker would bind them again.
    """
    stage.reset()
    loaded = stage.fill(numbered(stage, messages, WORKLOADS["live"]))
    loaded.expected[Kind.STORED], loaded.expected[Kind.LIVE] = loaded.expected[Kind.LIVE], set()
    with stage.unheard(stage.live), OURS.running(stage) as running:
        start, end = watch(running, stage, messages, stage.stored, WARM_SHARE)
        time.sleep(0.5)
    check(stage, loaded, OURS, "returned")
    return between(start, end, OURS.name, "returned")


def large_messages(stage: Stage, messages: int) -> Result:
    """Run with messages of 1 MiB, the largest that are accepted by default."""
    stage.reset()
    loaded = stage.fill(numbered(stage, messages, WORKLOADS["live"], size=_LARGE_BYTES))
    with OURS.running(stage) as running:
        start, end = watch(running, stage, messages, progress(stage, "live"))
        time.sleep(0.5)
    check(stage, loaded, OURS, "large")
    return between(start, end, OURS.name, "large")


def few_and_many_conversations(
    store_uri: str, counts: tuple[int, int], *, messages: int, rounds: int
) -> list[tuple[Result, Result]]:
    """Run *rounds* times with each of two numbers of active conversations, in turn, each with a session of full size.

    The first half of the messages is not counted: a process that has just started compares the exchanges of all active
    conversations, and reads each of them for its first message. What is counted reads each again when its ten seconds
    are over, as any process does that runs. Each number has a broker of its own: exchanges stay on a broker, and
    beside ten thousand of them the few cost more.
    """
    session = json.loads(_SESSION_EXAMPLE.read_text())["channelSession"]
    with ExitStack() as stack:
        few, many = (
            stack.enter_context(
                Stage(stack.enter_context(private_broker()), store_uri, conversations=count, session=session)
            )
            for count in counts
        )
        return [
            (run(few, OURS, "live", messages, _HALF), run(many, OURS, "live", messages, _HALF)) for _ in range(rounds)
        ]
