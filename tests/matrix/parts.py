"""What is run on a row, part by part, and what each run says in numbers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
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
    *("--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"),
)
_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Count:
    """How the tests of one part ended."""

    passed: int = 0
    failed: int = 0
    known: int = 0
    """Failures that are expected of this implementation."""

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.known + other.known)


def run(part: str, row: Row, place: Place, log: Path, *, whole: bool) -> Count:
    """Run one part on a row, all its output going to the end of *log*."""
    if part == "chaos":
        return _chaos(row, place, log)
    command, environment = _PYTEST[part](place, whole), place.environment
    with tempfile.NamedTemporaryFile(suffix=".xml", dir=log.parent) as report:
        status = _logged(
            [*place.python, *_PYTEST_AS_IN_MAKE_TEST, *command, f"--junitxml={report.name}"], environment, log
        )
        count = _counted(Path(report.name).read_text())
    return count if count.failed or not status else count + Count(failed=1)


def _stores(place: Place, whole: bool) -> list[str]:  # noqa: FBT001, ARG001 - one of a table
    return ["tests/contract/store", *(["--store", place.store] if place.store else [])]


def _acceptance(_: Place, whole: bool) -> list[str]:  # noqa: FBT001 - one of a table
    return ["tests/acceptance"] if whole else [f"tests/acceptance/{name}" for name in ACCEPTANCE]


_PYTEST: Final[dict[str, Callable[[Place, bool], list[str]]]] = {
    "unit": lambda _place, _whole: ["tests/unit"],
    "stores": _stores,
    "contract": lambda _place, _whole: ["tests/contract", "--ignore=tests/contract/store"],
    "differences": lambda _place, _whole: ["tests/matrix"],
    "integration": lambda _place, _whole: ["tests/integration"],
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


_ATTRIBUTES: Final = (("tests",), ("failures", "errors"), ("skipped",))
