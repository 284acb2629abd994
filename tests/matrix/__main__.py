"""`python -m tests.matrix`, or `make matrix`: the tests on every combination that can be started here.

    make matrix                                              # all rows; hours on two cores
    make matrix ARGS="--only rabbitmq --parts contract differences"
    make matrix ARGS="--resume"                              # only what has not passed yet
    make matrix ARGS="--list"

Each row's output is kept in `.cache/matrix/logs`, the results of all runs in `.cache/matrix/results.json`. The exit
code is 1 when a row failed; one that cannot be started says why and fails nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tests.matrix.interpreters import CACHE
from tests.matrix.parts import PARTS, run
from tests.matrix.place import CannotStartError
from tests.matrix.results import Results
from tests.matrix.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.matrix.place import Place
    from tests.matrix.rows import Row

_LOGS = CACHE / "logs"


def main(arguments: Sequence[str] | None = None, results: Results | None = None) -> int:
    """Run what was asked for and print the table; 1 when a row failed."""
    options = _options(arguments)
    results = results or Results.read()
    rows = [row for row in ROWS if not options.only or any(_is_meant(row, word) for word in options.only)]
    if not rows:
        print(f"no row is called {' or '.join(options.only)}; there are: {', '.join(row.name for row in ROWS)}")
        return 2
    if options.list:
        for row in rows:
            print(f"{row.name:24} {row.what:32} {', '.join(row.parts)}")
        return 0
    for row in rows:
        _run(row, results, options)
    print("", *results.table(rows), sep="\n")
    if options.readme:
        results.publish(ROWS)
    return 1 if any(results.of(row.name).has_failed for row in rows) else 0


def _is_meant(row: Row, word: str) -> bool:
    return row.name == word if any(one.name == word for one in ROWS) else word in row.name


def _run(row: Row, results: Results, options: argparse.Namespace) -> None:
    parts = [part for part in row.parts if not options.parts or part in options.parts]
    if options.resume:
        parts = results.missing(row.name, parts)
    if not parts:
        return
    results.forget(row.name, parts)
    one = results.of(row.name)
    print(f"{row.name}: {row.what} …", flush=True)
    try:
        with row.starting() as place:
            one.version, one.reason = place.version, ""
            _run_parts(row, place, parts, results, whole=options.whole)
    except CannotStartError as error:
        one.reason = str(error)
        print(f"  not started: {error}", flush=True)
    results.write()


def _run_parts(row: Row, place: Place, parts: Sequence[str], results: Results, *, whole: bool) -> None:
    _LOGS.mkdir(parents=True, exist_ok=True)
    log = _LOGS / f"{row.name}.log"
    print(f"  {place.version}; log: {log}", flush=True)
    for part in parts:
        started = time.monotonic()
        count = run(part, row, place, log, whole=whole)
        results.of(row.name).note(part, count)
        results.write()
        known = f", {count.known} failed as known" if count.known else ""
        known += f", {count.again} of them when run again" if count.again else ""
        seconds = time.monotonic() - started
        print(f"  {part:12} {count.passed} passed, {count.failed} failed{known}  {seconds:.0f} s", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description="Every combination that can be had.")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="rows of this name, or with it in their name"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[], help="these parts only")
    parser.add_argument("--resume", action="store_true", help="leave out what has passed in an earlier run")
    parser.add_argument("--whole", action="store_true", help="all acceptance tests instead of a chosen set")
    parser.add_argument("--list", action="store_true", help="list the rows and their parts")
    parser.add_argument("--readme", action="store_true", help="write the table of all rows into tests/README.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
