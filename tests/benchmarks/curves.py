"""How throughput and cost depend on batch size, linger and prefetch: the grounds for the defaults.

python -m tests.benchmarks.curves [--rounds N] [--only NAME …] [--json FILE] [--readme]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import plot, stores
from tests.benchmarks.contenders import ours
from tests.benchmarks.report import README, Report, machine
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import run
from tests.services.services import private_broker
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.throughput import Result

_CONVERSATIONS: Final = 100
_MESSAGES: Final = 25_000
CURVES: Final[dict[str, tuple[int, ...]]] = {
    "batch_size": (1, 10, 50, 100, 200, 400, 1000),
    "batch_linger_ms": (0, 2, 5, 10, 25),
    "prefetch": (200, 400, 700, 1000, 1500, 2000),
    "batches_in_flight": (1, 2, 4, 8, 16),
}
"""Settings and the values tried; everything else stays at its default."""

Measured = dict[str, dict[int, list["Result"]]]


def measure(stage: Stage, rounds: int, names: list[str]) -> Measured:
    """Run every value of every named setting *rounds* times, interleaved."""
    results: Measured = {name: defaultdict(list) for name in names}
    for _ in range(rounds):
        for name in names:
            for value in CURVES[name]:
                result = run(stage, ours(1, {}, **_environment(name, value)), "live", _messages(name, value))
                results[name][value].append(result)
                print(f"  {name} {value}: {result.rate:,.0f}/s, {result.cpu_us:.0f} µs", flush=True)
    return results


def table(results: Measured) -> Iterator[str]:
    """Yield the medians as Markdown."""
    yield "| setting | value | messages/s | µs CPU/message | µs broker CPU |"
    yield "|---|--:|--:|--:|--:|"
    for name, values in results.items():
        default = Settings.model_fields[name].default
        for value, some in values.items():
            numbers = [median(getattr(one, field) for one in some) for field in ("rate", "cpu_us", "broker_cpu_us")]
            mark = " (default)" if value == default else ""
            yield f"| `{name}` | {value}{mark} | {numbers[0]:,.0f} | {numbers[1]:.0f} | {numbers[2]:.0f} |"


def facts(results: Measured) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        name: {str(value): [one.facts() for one in some] for value, some in values.items()}
        for name, values in results.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=tuple(CURVES), default=list(CURVES))
    parser.add_argument("--json", metavar="FILE", help="write every result to FILE as well")
    parser.add_argument("--readme", action="store_true", help="write table and plot into README.md and beside it")
    options = parser.parse_args()
    report = Report()
    with (
        private_broker() as broker,
        stores.running(stores.fastest()) as store,
        Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage,
    ):
        results = measure(stage, options.rounds, options.only)
        report.section("Machine", machine(broker.management.version(), store.describe))
    report.section("Curves", table(results))
    if options.json:
        Path(options.json).write_text(json.dumps(facts(results), indent=1))
    if options.readme:
        report.write("curves")
        plot.curves(facts(results), README.with_name("curves.png"))


def _environment(name: str, value: int) -> dict[str, str]:
    """Return the settings of one point. A window must hold a batch, so a large batch comes with a window to match."""
    environment = {f"CIM_{name.upper()}": str(value)}
    if name == "batch_size" and value > int(Settings.model_fields["prefetch"].default):
        environment["CIM_PREFETCH"] = str(value)
    return environment


def _messages(name: str, value: int) -> int:
    return _MESSAGES // 5 if name == "batch_size" and value < 50 else _MESSAGES


if __name__ == "__main__":
    main()
