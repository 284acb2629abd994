"""`python -m tests.benchmarks`: compare our worker with what people would write or use instead, and with the limits."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import further, profiling, report, stores, targets
from tests.benchmarks.rounds import Rounds
from tests.benchmarks.stage import Stage
from worker.sandbox.broker import LocalBroker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.benchmarks.rounds import Results

_CONVERSATIONS = 100
_PARTS = ("live", "stored", "mixed", "durable", "further", "profile")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes."""

    rounds: int
    seconds: float
    sizes: further.Sizes
    profiled: int


QUICK = Plan(rounds=1, seconds=0.8, sizes=further.QUICK, profiled=8_000)
FULL = Plan(rounds=3, seconds=3.0, sizes=further.FULL, profiled=40_000)


def main() -> int:
    """Run what was asked for and print the report; 1 when a target was missed."""
    options = _options()
    plan = QUICK if options.quick else FULL
    started = time.monotonic()
    with LocalBroker(plugins=("rabbitmq_shovel",)) as broker, stores.running(options.store) as store:
        _head(report.machine(broker.management.version(), store.describe))
        with Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage:
            outcome = _run(stage, plan, options)
        if "durable" in options.parts and options.store == "memory" and not options.quick:
            outcome["durable"] = _durable(broker, plan, options.only)
    outcome["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    print(f"\n{time.monotonic() - started:.0f} s in all")
    if options.json:
        Path(options.json).write_text(json.dumps(outcome, indent=1))
    return 0 if all(verdict["met"] for verdict in outcome["targets"]) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything, under two minutes")
    parser.add_argument("--rounds", type=int, help="rounds of the comparison (3; with --quick 1)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only contenders whose name has TEXT"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (all; --quick leaves out durable)"
    )
    parser.add_argument("--store", choices=stores.NAMES, default=stores.fastest(), help="%(default)s on this machine")
    parser.add_argument("--json", metavar="FILE", help="write every result to FILE as well")
    return parser.parse_args()


def _run(stage: Stage, plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    workloads = [part for part in options.parts if part in {"live", "stored", "mixed"}]
    rounds = _compare(stage, workloads, options.rounds or plan.rounds, plan.seconds, options.only)
    verdicts = [verdict for target in targets.RATIOS if (verdict := target.verdict(rounds)) is not None]
    if "further" in options.parts:
        print("\nfurther measurements", flush=True)
        verdicts += further.Further(stage, plan.sizes, _say).all()
    _section("Throughput", report.throughput(rounds) if workloads else ())
    _section("Targets", report.verdicts(verdicts))
    if "profile" in options.parts:
        for workload in ("live", "stored"):
            profiled = profiling.profile(stage, workload, plan.profiled)
            _section("Processor time", report.shares(profiled, functions=0 if options.quick else 12))
    results = [result.facts() for one in rounds for result in one.values()]
    return {"results": results, "targets": [verdict.facts() for verdict in verdicts]}


def _compare(stage: Stage, workloads: Sequence[str], count: int, seconds: float, only: Sequence[str]) -> list[Results]:
    rounds = Rounds(stage, seconds=seconds, only=only, say=_say)
    results = []
    for number in range(1, count + 1):
        print(f"\nround {number} of {count}", flush=True)
        results.append(rounds.round(workloads))
    return results


def _durable(broker: LocalBroker, plan: Plan, only: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the stored workload on a store that keeps its data on disk: there, waiting is what counts."""
    with stores.running("embedded") as store, Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage:
        rounds = _compare(stage, ["stored"], 1, plan.seconds, only)
        _section(f"Stored, with {store.describe}", report.throughput(rounds))
        _section(
            "", report.verdicts(found for target in targets.RATIOS if (found := target.verdict(rounds)) is not None)
        )
    return [result.facts() for one in rounds for result in one.values()]


def _say(line: str) -> None:
    print(line, flush=True)


def _head(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _section(title: str, lines: Iterable[str]) -> None:
    print(f"\n## {title}\n" if title else "", flush=True)
    _head(lines)


if __name__ == "__main__":
    sys.exit(main())
