"""What is run on a row, part by part, and what each run says in numbers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from tests.chaos import faults, sick  # noqa: F401 - both enter their faults into the catalogue
from tests.chaos.fault import FAULTS
from tests.matrix.interpreters import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.matrix.place import Place
    from tests.matrix.rows import Row

ACCEPTANCE: Final = (
    "test_cli_topology.py",
    "test_conversations.py",
    "test_dead_letters.py",
    "test_explain.py",
    "test_journal.py",
    "test_pause.py",
    "test_permissions.py",
    "test_pool.py",
    "test_receipts.py",
    "test_rolling_update.py",
)
"""Of the acceptance tests those that lean on what broker, store and interpreter do; `--whole` runs all of them."""
_CHAOS: Final = ("--seed", "20261122", "--minutes", "1", "--messages", "8000", "--every", "1.5", "--at-once", "3")
_PYTEST_AS_IN_MAKE_TEST: Final = (
    *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
    *("-o", "faulthandler_timeout=900"),  # a row may share the machine with other work
    *("--dist", "loadfile", "--no-loadscope-reorder", "--numprocesses"),
)
_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Count:
    """How the tests of one part ended."""

    passed: int = 0
    failed: int = 0
    known: int = 0
    """Failures that are expected of this implementation."""
    again: int = 0
    """Those of the passed ones that failed at first, beside others, and passed when they ran once more."""


def run(part: str, row: Row, place: Place, log: Path, *, whole: bool) -> Count:
    """Run one part on a row, all its output going to the end of *log*."""
    if part == "chaos":
        return _chaos(row, place, log)
    tests, options = _PYTEST[part](place, whole), _options(part, place)
    first, failed = _tested(place, [*tests, *options], log, processes=3)
    if not failed:
        return first
    second, _ = _tested(place, [*failed, *options], log, processes=1)
    still = len(failed) - second.passed - second.known
    return Count(first.passed + second.passed, still, first.known + second.known, second.passed)


def _tested(place: Place, tests: Sequence[str], log: Path, *, processes: int) -> tuple[Count, list[str]]:
    """Run pytest; return the count, and the tests that failed."""
    with tempfile.NamedTemporaryFile(suffix=".xml", dir=log.parent) as report:
        command = [*place.python, *_PYTEST_AS_IN_MAKE_TEST, str(processes), *tests, f"--junitxml={report.name}"]
        status = _logged(command, place.environment, log)
        text = Path(report.name).read_text()
    count = _counted(text)
    if status and not count.failed:
        count = replace(count, failed=1)
    return count, _failed(text)


def _options(part: str, place: Place) -> list[str]:
    return ["--store", place.store] if part == "stores" and place.store else []


def _integration(place: Place, whole: bool) -> list[str]:  # noqa: FBT001 - one of a table
    """Where only the store is another one: those that use it."""
    if whole or not place.store:
        return ["tests/integration"]
    files = sorted((ROOT / "tests" / "integration").glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "store: Store" in file.read_text()]


def _acceptance(_: Place, whole: bool) -> list[str]:  # noqa: FBT001 - one of a table
    return ["tests/acceptance"] if whole else [f"tests/acceptance/{name}" for name in ACCEPTANCE]


_PYTEST: Final[dict[str, Callable[[Place, bool], list[str]]]] = {
    "unit": lambda _place, _whole: ["tests/unit"],
    "stores": lambda _place, _whole: ["tests/contract/store"],
    "contract": lambda _place, _whole: ["tests/contract", "--ignore=tests/contract/store"],
    "differences": lambda _place, _whole: ["tests/matrix"],
    "integration": _integration,
    "acceptance": _acceptance,
}
PARTS: Final = (*_PYTEST, "chaos")


def _chaos(row: Row, place: Place, log: Path) -> Count:
    command = [*place.python, "-m", "tests.chaos", *_CHAOS, "--feel", ""]
    if place.rabbitmq_root:
        command += ["--rabbitmq-root", str(place.rabbitmq_root)]
    if place.store:
        command += ["--store", place.store]
    if row.no_faults:
        command += ["--only", ",".join(name for name in FAULTS if name not in row.no_faults)]
    return Count(failed=1) if _logged(command, {}, log) else Count(passed=1)


def _logged(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        try:
            return subprocess.run(
                command,
                cwd=ROOT,
                env={**_without_settings(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            output.write(f"not ended after {_SECONDS} s\n".encode())
            return 1


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CIM_")}


def _counted(report: str) -> Count:
    """Read a report in JUnit's form; what is expected to fail is counted by it as skipped."""
    if not report:
        return Count(failed=1)
    suites = list(ET.fromstring(report).iter("testsuite"))  # noqa: S314 - written by the run that just ended
    total, bad, known = (sum(int(suite.get(name, 0)) for suite in suites for name in names) for names in _ATTRIBUTES)
    return Count(total - bad - known, bad, known)


def _failed(report: str) -> list[str]:
    """Return what pytest calls the tests that failed."""
    cases = ET.fromstring(report).iter("testcase") if report else ()  # noqa: S314 - written by the run that just ended
    return [
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


_ATTRIBUTES: Final = (("tests",), ("failures", "errors"), ("skipped",))
