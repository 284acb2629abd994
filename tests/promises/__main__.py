"""Break each promise of the desk, one at a time, and see the test go red that has to notice: `make promises`.

`python -m tests.promises [WORDS…] [--at-once 2]`: of the promises whose sentence has these words. In a copy of the
tree, on one broker and one store for all of it. Exit code 1 if one was broken and nobody noticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.promises.promises import PROMISES, plant
from tests.services.services import found_store, private_broker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.promises.promises import Promise

_TREE: Final = Path(__file__).parents[2]
_LEFT_OUT: Final = shutil.ignore_patterns(".git", ".venv", ".cache", "__pycache__", "*.so", "node_modules", ".*_cache")
_RED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_SECONDS: Final = 300
_TIME_LIMIT: Final = "ran into its time limit"
_TESTS_FAILED: Final = 1


class Seen(NamedTuple):
    """What became of one promise that was broken."""

    promise: Promise
    red: str
    """The first test that went red; empty if none did."""
    problem: str = ""
    """Why nothing can be said: the tests did not run."""


def hunt(promises: Sequence[Promise], at_once: int, shown_by: str = "") -> list[Seen]:
    """Break each of *promises* and return what was seen; *shown_by* runs other tests than theirs."""
    folders: SimpleQueue[Path] = SimpleQueue()
    with (
        tempfile.TemporaryDirectory(prefix="cim-promises-") as folder,
        private_broker() as broker,
        found_store(None) as store,
        ThreadPoolExecutor(at_once) as threads,
    ):
        services = {
            "CIM_RABBITMQ_URL": broker.url,
            "CIM_RABBITMQ_MANAGEMENT_URL": broker.management_url,
            "CIM_MONGODB_URI": store.uri,
        }
        for number in range(at_once):
            folders.put(Path(shutil.copytree(_TREE, Path(folder, str(number)), ignore=_LEFT_OUT)))

        def look(promise: Promise) -> Seen:
            copy = folders.get()
            file = copy / "worker" / promise.file
            before = file.read_text()
            try:
                plant(promise, copy)
                return _tested(promise, copy, shown_by or promise.shown_by, services)
            finally:
                file.write_text(before)
                folders.put(copy)

        return [_said(one) for one in threads.map(look, promises)]


def _tested(promise: Promise, copy: Path, tests: str, services: Mapping[str, str]) -> Seen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        **services,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests.split()]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Seen(promise, _TIME_LIMIT)
    if "Timeout (" in done.stderr:  # pytest ends a test that hangs
        return Seen(promise, _TIME_LIMIT)
    red = _RED.search(done.stdout)
    if done.returncode == _TESTS_FAILED and red is not None:
        return Seen(promise, red[1])
    return Seen(promise, "", "" if done.returncode == 0 else f"{done.stdout[-600:]}{done.stderr[-300:]}")


def _said(seen: Seen) -> Seen:
    print(f"{'ok ' if seen.red else 'NOT NOTICED'} {seen.promise.says}: {seen.red or seen.problem}", flush=True)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only promises with all of these words")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--tests", default="", help="run these instead of the ones that are named")
    arguments = parser.parse_args()
    chosen = [one for one in PROMISES if all(word in one.says for word in arguments.words)]
    seen = hunt(chosen, arguments.at_once, arguments.tests)
    print(f"{sum(bool(one.red) for one in seen)} of {len(seen)} broken promises were noticed")
    return 0 if all(one.red for one in seen) else 1


if __name__ == "__main__":
    sys.exit(main())
