"""Tables of what was measured: Markdown that reads well on a terminal too."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import IS_COMPILED, SHOVEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.benchmarks.profiling import Profile
    from tests.benchmarks.rounds import Results
    from tests.benchmarks.targets import Verdict
    from tests.benchmarks.throughput import Result

README = Path(__file__).parent / "README.md"
_PACKAGES = ("pika", "aio-pika", "faststream", "pymongo", "pydantic")


class Report:
    """Prints what is found as soon as it is known, and keeps the tables for the README."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def progress(self, line: str) -> None:
        """Print a line that is of no use later."""
        print(line, flush=True)

    def section(self, title: str, lines: Iterable[str]) -> None:
        """Print and keep a table under its title."""
        for line in (f"\n### {title}\n", *lines):
            print(line, flush=True)
            self._kept.append(line)

    def write(self, name: str) -> None:
        """Replace what the README says between the marks of *name* by what was kept."""
        write_between(README, name, self._kept)


def write_between(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace what *page* says between the marks of *name* by *lines*."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{page} has no marks for {name}")
    text = "\n".join(lines)
    page.write_text(f"{before}{begin}{text}\n\n{end}{after}")


def machine(broker_version: str, store: str) -> Iterator[str]:
    """Yield what the numbers depend on."""
    load = os.getloadavg()[0]
    today = datetime.now(UTC).date().isoformat()
    cores = f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before the run"
    yield f"{today}, {cores}, {platform.system()}, Python {sys.version.split()[0]}, RabbitMQ {broker_version}."
    form = "with what is compiled (`make native`)" if IS_COMPILED else "in its Python form (`make native` was not run)"
    yield f"The worker runs {form}, where the table does not say otherwise."
    yield f"Store: {store}. {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}."


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


def verdict_table(all_of_them: Iterable[Verdict]) -> Iterator[str]:
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
