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

from tests.benchmarks import further, plot, processes, stores
from tests.benchmarks.contenders import BLOCKING, OURS
from tests.benchmarks.further import Further
from tests.benchmarks.profiling import profile
from tests.benchmarks.report import README, Report, machine, shares, throughput, verdict_table, write_between
from tests.benchmarks.rounds import Rounds
from tests.benchmarks.stage import Stage
from tests.benchmarks.targets import RATIOS
from tests.benchmarks.throughput import BARE_INSERT_MANY
from tests.services.services import private_broker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.rounds import Results
    from tests.benchmarks.targets import Verdict
    from tests.services.broker import LocalBroker

_CONVERSATIONS = 100
_DURABLE_MESSAGES = 20_000
_DURABLE_ROUNDS = 3
_DURABLE_SECONDS = 3
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
    report = Report()
    with private_broker(plugins=("rabbitmq_shovel",)) as broker, stores.running(options.store) as store:
        title = "Quick run" if options.quick else "Full run"
        facts = list(machine(broker.management.version(), store.describe))
        report.section(title, facts)
        with Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage:
            outcome, rounds = _run(stage, plan, options, report)
        if "durable" in options.parts and options.store == "memory" and not options.quick:
            outcome["durable"] = _durable(broker, report)
    outcome["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    report.progress(f"\n{time.monotonic() - started:.0f} s in all")
    if options.json:
        Path(options.json).write_text(json.dumps(outcome, indent=1))
    if options.capacity:
        write_between(processes.PAGE, "processes", ["", *facts, "", *processes.table(rounds)])
    if options.readme:
        report.write("results")
        plot.throughput(outcome, README.with_name("throughput.png"))
    return 0 if all(verdict["met"] for verdict in outcome["targets"]) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round of everything, under two minutes")
    add("--rounds", type=int, help="rounds of the comparison (3; with --quick 1)")
    add("--only", action="append", default=[], metavar="TEXT", help="only contenders whose name has TEXT")
    add("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (all; --quick: not durable)")
    add("--store", choices=stores.NAMES, default=stores.fastest(), help="%(default)s on this machine")
    add("--json", metavar="FILE", help="write every result to FILE as well")
    add("--readme", action="store_true", help="write the tables and the plot into README.md beside this program")
    add("--capacity", action="store_true", help="write the table of 1, 2 and 4 processes into deploy/capacity.md")
    return parser.parse_args()


def _run(stage: Stage, plan: Plan, options: argparse.Namespace, report: Report) -> tuple[dict[str, Any], list[Results]]:
    workloads = [part for part in options.parts if part in {"live", "stored", "mixed"}]
    runs = Rounds(stage, seconds=plan.seconds, only=options.only, say=report.progress)
    rounds = _compare(workloads, options.rounds or plan.rounds, runs)
    verdicts = _ratios(rounds)
    if "further" in options.parts:
        verdicts += Further(stage, plan.sizes, report.progress).all()
    if workloads:
        report.section("Throughput", throughput(rounds))
    if verdicts:
        report.section("Targets", verdict_table(verdicts))
    if "profile" in options.parts:
        report.section("Where our processor time goes", _profiles(stage, plan.profiled))
    results = [result.facts() for one in rounds for result in one.values()]
    return {"results": results, "targets": [verdict.facts() for verdict in verdicts]}, rounds


def _compare(workloads: Sequence[str], count: int, rounds: Rounds) -> list[Results]:
    return [rounds.round(workloads) for _ in range(count)] if workloads else []


def _ratios(rounds: Sequence[Results]) -> list[Verdict]:
    return [verdict for target in RATIOS if (verdict := target.verdict(rounds)) is not None]


def _profiles(stage: Stage, messages: int) -> Iterator[str]:
    for workload in ("live", "stored"):
        yield from shares(profile(stage, workload, messages), functions=0)
        yield ""


def _durable(broker: LocalBroker, report: Report) -> list[dict[str, Any]]:
    """Compare the stored workload on a store that keeps its data on disk: there, waiting is what counts."""
    with stores.running(stores.durable()) as store, Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage:
        only = (OURS.name, BLOCKING.name, BARE_INSERT_MANY)
        runs = Rounds(stage, seconds=_DURABLE_SECONDS, only=only, say=report.progress, most_messages=_DURABLE_MESSAGES)
        rounds = _compare(["stored"], _DURABLE_ROUNDS, runs)
        report.section(f"Stored, on a store that writes to disk: {store.describe}", throughput(rounds))
        report.section("The same targets there", verdict_table(_ratios(rounds)))
    return [result.facts() for one in rounds for result in one.values()]


if __name__ == "__main__":
    sys.exit(main())
