"""How long a pool takes from its start until every process consumes, and how much memory it takes.

    python -m tests.benchmarks.start --rounds 5

Memory is the sum of what each process has resident, the supervisor's included: pages that they share count for each.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.benchmarks import stores
from tests.benchmarks.contenders import ours
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import WORKLOADS, numbered, progress, wait_until
from tests.services.services import private_broker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.benchmarks.contenders import RunningProcess

_LOOK_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 60.0
_TARGET_SECONDS: Final = {1: 2.0, 4: 3.5}
_TARGET_MIB: Final = {2: 200.0}


def main() -> int:
    """Start pools of one, two and four processes in turn; print medians. Return 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000, help="live ones, before memory is looked at")
    options = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    mebibytes: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with (
        private_broker() as broker,
        stores.running(stores.fastest()) as store,
        Stage(broker, store.uri, conversations=100) as stage,
    ):
        for _ in range(options.rounds):
            for processes, times in seconds.items():
                stage.reset()
                started = time.monotonic()
                with ours(processes, {}).running(stage) as pool:
                    _wait_until_consuming(pool, processes)
                    times.append(time.monotonic() - started)
                    stage.fill(numbered(stage, options.messages, WORKLOADS["live"]))
                    wait_until(pool, stage, options.messages, progress(stage, "live"))
                    mebibytes[processes].append(pool.resident_mb())
    missed = [*_print(seconds, "s", _TARGET_SECONDS), *_print(mebibytes, "MiB", _TARGET_MIB)]
    return 1 if missed else 0


def _wait_until_consuming(pool: RunningProcess, processes: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while pool.logged()["consuming"] < processes:
        if pool.complaint() or time.monotonic() > deadline:
            raise RuntimeError(pool.complaint() or "not every process consumes after a minute")
        time.sleep(_LOOK_SECONDS)


def _print(found: dict[int, list[float]], unit: str, targets: dict[int, float]) -> Iterable[str]:
    """Print the medians; return those beyond their target."""
    beyond = []
    for processes, values in found.items():
        target = targets.get(processes)
        asked = "" if target is None else f"   asked: at most {target:g}"
        line = f"{processes} processes   {median(values):6.2f} {unit}   {min(values):.2f} - {max(values):.2f}{asked}"
        print(line, flush=True)
        if target is not None and median(values) > target:
            beyond.append(line)
    return beyond


if __name__ == "__main__":
    raise SystemExit(main())
