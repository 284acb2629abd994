"""`python -m tests.fuzz`: the long form. `--inputs N --seed N`, or `--replay FILE` for one saved input."""

from __future__ import annotations

import argparse
import ast
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.fuzz.campaign import TARGETS, Broken, Tally, Target, run

SAVED = Path(".cache") / "fuzz"


def main() -> int:
    """Run and report; return 0 when every promise held, 1 when one did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many inputs in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed tries the same inputs (default: 1)")
    parser.add_argument("--only", choices=[target.name for target in TARGETS], help="one target, with all the inputs")
    parser.add_argument("--replay", type=Path, help="check one saved input instead")
    options = parser.parse_args()
    if options.replay:
        return _replay(options.replay)
    begun = time.monotonic()
    chosen = [(one, one.share) for one in TARGETS] if not options.only else [(_named(options.only), 100)]
    tallies: dict[str, Tally] = {}
    broken: list[Broken] = []
    with _progress() as progress:
        task = progress.add_task("inputs", total=options.inputs)
        for target, share in chosen:
            _run_one(target, -(-options.inputs * share // 100), options.seed, progress, task, tallies, broken)
    _report(tallies, options.seed, time.monotonic() - begun)
    for one in broken:
        _show(one)
    return 1 if broken else 0


def _run_one(
    target: Target,
    inputs: int,
    seed: int,
    progress: Progress,
    task: object,
    tallies: dict[str, Tally],
    broken: list[Broken],
) -> None:
    for step in run(target, inputs, seed):
        if isinstance(step, Broken):
            broken.append(step)
            continue
        tallies[target.name] = step
        done = sum(tally.inputs for tally in tallies.values())
        progress.update(task, completed=done, description=target.name)  # type: ignore[arg-type]


def _replay(file: Path) -> int:
    name, _, literal = file.read_text().partition("\n")
    try:
        print(_named(name).check(ast.literal_eval(literal)))
    except Exception:  # noqa: BLE001 - that is what we came to see
        traceback.print_exc()
        return 1
    return 0


def _named(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def _progress() -> Progress:
    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True))


def _report(tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    total = sum(tally.inputs for tally in tallies.values())
    table = Table("target", "outcome", "inputs")
    for name, tally in tallies.items():
        for outcome, count in tally.outcomes.most_common():
            table.add_row(name, outcome, f"{count}")
            name = ""  # noqa: PLW2901 - said once for each target
    Console().print(table)
    print(f"{total} inputs in {seconds:.0f} s with seed {seed}")


def _show(broken: Broken) -> None:
    SAVED.mkdir(parents=True, exist_ok=True)
    file = SAVED / broken.file_name
    file.write_text(f"{broken.target}\n{broken.given!r}\n")
    print("".join(traceback.format_exception(broken.error))[-6000:])
    text = repr(broken.given)
    print(f"\nBROKEN: {broken.target}; the smallest input found: {text[:2000]}{'…' if len(text) > 2000 else ''}")
    print(f"saved: {file}; again: python -m tests.fuzz --replay {file}")


if __name__ == "__main__":
    sys.exit(main())
