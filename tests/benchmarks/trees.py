"""Processor time per message of one tree beside another: what a change costs, or saves.

    git worktree add --detach /tmp/before REV
    python -m tests.benchmarks.trees before=/tmp/before after=. journalless=.,CIM_JOURNAL=false python=.,PYTHON_FORM

One process of each, in turn, on one broker and store. A tree is compiled where `make native` was run in it;
`PYTHON_FORM` leaves that out. On a machine with other work only processor time says something, and only side by side:
`--beside` runs each of the others at the same time as the first one, each on a virtual host of its own, so that what
others take is taken from both.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Self

from tests.benchmarks import stores
from tests.benchmarks.contenders import Command
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import WORKLOADS, between, numbered, progress, watch
from tests.services.services import private_broker

if TYPE_CHECKING:
    from tests.benchmarks.throughput import Result

_PYTHON_FORM: Final = "PYTHON_FORM"


@dataclass(frozen=True, slots=True)
class Tree:
    """One of the trees, and the settings of its worker."""

    name: str
    folder: Path
    settings: dict[str, str]
    is_python_form: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read NAME=FOLDER[,SETTING=VALUE or PYTHON_FORM …]. Raises ArgumentTypeError without a worker there."""
        name, _, rest = text.partition("=")
        folder, *settings = rest.split(",")
        path = Path(folder).resolve()
        if not (path / "worker" / "__main__.py").exists():
            msg = f"{text}: no worker in {path}"
            raise argparse.ArgumentTypeError(msg)
        pairs = dict(setting.split("=", 1) for setting in settings if setting != _PYTHON_FORM)
        return cls(name, path, pairs, _PYTHON_FORM in settings)

    def command(self) -> Command:
        """Return its worker as a contender, of one process."""
        module = "tests.benchmarks.python_form" if self.is_python_form else "worker"
        arguments = ("-P", "-m", module, "run", "--processes", "1")  # -P: not the worker of the current folder
        return Command(self.name, arguments, {}, {"PYTHONPATH": str(self.folder), **self.settings})


def main() -> None:
    """Run the rounds; print each run and the medians, the first tree's processor time being 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trees", description=__doc__)
    parser.add_argument("trees", nargs="+", type=Tree.parse, metavar="NAME=FOLDER[,SETTING=VALUE]")
    parser.add_argument("--workload", action="append", choices=tuple(WORKLOADS), default=[], help="live and stored")
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", action="store_true", help="each at the same time as the first one")
    options = parser.parse_args()
    with (
        private_broker() as broker,
        stores.running(stores.fastest()) as store,
        Stage(broker, store.uri, conversations=100) as stage,
        Stage(broker, store.uri, conversations=100) as other,
    ):
        for workload in options.workload or ["live", "stored"]:
            if options.beside:
                _compare_beside([stage, other], workload, options.trees, options.messages, options.rounds)
            else:
                _compare(stage, workload, options.trees, options.messages, options.rounds)


def _compare(stage: Stage, workload: str, trees: list[Tree], messages: int, rounds: int) -> None:
    found: dict[str, list[Result]] = {tree.name: [] for tree in trees}
    for _ in range(rounds):
        for tree in trees:
            result = _run(stage, tree, workload, messages)
            found[tree.name].append(result)
            print(f"  {workload} {tree.name:12} {result.cpu_us:5.1f} µs {result.rate:8,.0f}/s", flush=True)
    times = {name: median(result.cpu_us for result in results) for name, results in found.items()}
    for name, time in times.items():
        rate = median(result.rate for result in found[name])
        print(f"{workload} {name:12} {time:5.1f} µs {time / times[trees[0].name]:5.2f}  {rate:8,.0f}/s", flush=True)


def _compare_beside(stages: list[Stage], workload: str, trees: list[Tree], messages: int, rounds: int) -> None:
    """Run each tree together with the first one, on either stage in turn; print how they compare in the median."""
    first, *others = trees
    for tree in others:
        costs, rates = [], []
        for number in range(rounds):
            for stage in stages:
                _fill(stage, workload, messages)
            with ThreadPoolExecutor() as pool:
                places = stages if number % 2 else stages[::-1]
                usual, result = pool.map(_work, places, (first, tree), repeat(workload), repeat(messages))
            costs.append(result.cpu_us / usual.cpu_us)
            rates.append(result.rate / usual.rate)
            print(
                f"  {workload} {tree.name:12} {result.cpu_us:5.1f} µs {costs[-1]:5.2f} of {usual.cpu_us:5.1f}",
                flush=True,
            )
        spread = f"({min(costs):.2f} - {max(costs):.2f})"
        print(f"{workload} {tree.name:12} cpu {median(costs):.3f} {spread}  rate {median(rates):.2f}", flush=True)


def _run(stage: Stage, tree: Tree, workload: str, messages: int) -> Result:
    """Run once. Effects are counted and not compared by their ids, which may be others in another tree."""
    _fill(stage, workload, messages)
    return _work(stage, tree, workload, messages)


def _fill(stage: Stage, workload: str, messages: int) -> None:
    stage.reset()
    stage.fill(numbered(stage, messages, WORKLOADS[workload]))


def _work(stage: Stage, tree: Tree, workload: str, messages: int) -> Result:
    with tree.command().running(stage) as running:
        start, end = watch(running, stage, messages, progress(stage, workload))
    return between(start, end, tree.name, workload)


if __name__ == "__main__":
    main()
