"""Tables of what was measured: Markdown that reads well on a terminal too."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import SHOVEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.benchmarks.profiling import Profile
    from tests.benchmarks.rounds import Results
    from tests.benchmarks.targets import Verdict
    from tests.benchmarks.throughput import Result

_PACKAGES = ("pika", "aio-pika", "faststream", "pymongo", "pydantic")


def machine(broker_version: str, store: str) -> Iterator[str]:
    """Yield what the numbers depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    load = os.getloadavg()[0]
    yield f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before the run; {platform.system()}"
    yield f"Python {sys.version.split()[0]}, RabbitMQ {broker_version}, store: {store}"
    yield packages


def throughput(rounds: Sequence[Results]) -> Iterator[str]:
    """Yield a table of rates: medians over the rounds with their spread."""
    yield "| workload | contender | messages/s | spread | µs CPU/message | µs broker CPU | MiB |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for key in rounds[0]:
        results = [one[key] for one in rounds if key in one]
        rates = [result.rate for result in results]
        yield _row(
            results[0].workload,
            results[0].contender,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f} - {max(rates):,.0f}",
            *(_or_dash(median(_values(results, name))) for name in ("cpu_us", "broker_cpu_us", "memory_mb")),
        )


def verdicts(all_of_them: Iterable[Verdict]) -> Iterator[str]:
    """Yield a table of targets."""
    yield "| | target | measured | |"
    yield "|---|--:|--:|---|"
    for one in all_of_them:
        yield _row(one.what, one.target, one.measured, "met" if one.met else "**missed**")


def shares(profile: Profile, functions: int) -> Iterator[str]:
    """Yield a table of where the processor time goes."""
    cpu = profile.result.cpu_us
    yield f"{profile.result.workload}: {cpu:.0f} µs CPU per message while sampled"
    yield ""
    yield "| part | share | µs |"
    yield "|---|--:|--:|"
    for name, share in profile.parts.items():
        yield _row(name, f"{share:.0%}", f"{share * cpu:.1f}")
    if functions:
        yield ""
        for name, share in list(profile.functions.items())[:functions]:
            yield f"    {share * cpu:5.1f} µs  {name}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _values(results: Sequence[Result], name: str) -> list[float]:
    return [
        getattr(result, name) for result in results if result.contender != SHOVEL.name or name == "broker_cpu_us"
    ] or [0]


def _or_dash(value: float) -> str:
    return f"{value:.0f}" if value else "-"
