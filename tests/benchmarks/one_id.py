"""What one AMQP message id on everything costs, beside an id of its own on each message: nothing.

    python -m tests.benchmarks.one_id

Some publishers put one id on everything. Live messages and invalid ones, each way in turn in each round; ratios are
taken within a round, and the medians count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contenders import ours
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import WORKLOADS, Result, between, numbered, progress, watch
from tests.services.services import private_broker
from tests.services.store import embedded_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.messages import Prepared

_ID: Final = "the-same-on-everything"
_LAST_ACKS_SECONDS: Final = 0.5


def main() -> None:
    """Run the rounds, and print each pair and the medians. Raises RuntimeError when a message is not accounted for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.one_id", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, private_broker(say=print) as broker:
        store = embedded_store(Path(folder))
        store.start()
        with Stage(broker, store.uri, conversations=100) as stage:
            for workload in ("live", "invalid"):
                _compare(stage, workload, options.rounds, options.messages)
        store.stop()


def _compare(stage: Stage, workload: str, rounds: int, messages: int) -> None:
    rates, costs = [], []
    for _ in range(rounds):
        prepared = list(numbered(stage, messages, WORKLOADS[workload]))
        own = _run(stage, workload, prepared)
        prepared = list(numbered(stage, messages, WORKLOADS[workload]))
        same = _run(stage, workload, [replace(one, message_id=_ID) for one in prepared])
        rates.append(same.rate / own.rate)
        costs.append(same.cpu_us / own.cpu_us)
        print(
            f"  {workload:8} own ids {own.rate:8,.0f}/s {own.cpu_us:6.1f} µs   "
            f"one id {same.rate:8,.0f}/s {same.cpu_us:6.1f} µs",
            flush=True,
        )
    print(f"{workload:8} one id beside own ids: rate {median(rates):.2f}, processor time {median(costs):.2f}")


def _run(stage: Stage, workload: str, prepared: Sequence[Prepared]) -> Result:
    stage.reset()
    stage.fill(prepared)
    contender = ours(1, {})
    with contender.running(stage) as running:
        start, end = watch(running, stage, len(prepared), progress(stage, workload))
        time.sleep(_LAST_ACKS_SECONDS)
    effects = stage.effects()
    if effects.total != len(prepared) or stage.waiting():
        raise RuntimeError(f"{len(prepared)} messages became {effects}")
    return between(start, end, contender.name, workload)


if __name__ == "__main__":
    main()
