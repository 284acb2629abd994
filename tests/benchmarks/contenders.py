"""Who takes part: each can be started on a stage, watched by its process ids, and stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import psutil

from tests.services.processes import KeptProcess
from worker import compiled, contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.benchmarks.stage import Stage

_ROOT: Final = Path(__file__).parents[2]
_GO_SOURCE: Final = Path(__file__).parent / "rivals" / "go"
_GO_PROGRAM: Final = _ROOT / ".cache" / "benchmarks" / "go-contender"
_STOP_SECONDS: Final = 30.0
_SHOVEL_PREFETCH: Final = 1000


class Running(Protocol):
    """A contender at work."""

    def cpu_seconds(self) -> float:
        """Return the processor time it has used so far; 0 where it cannot be told."""

    def memory_mb(self) -> float:
        """Return the resident memory of its largest process, in MiB."""

    def complaint(self) -> str | None:
        """Return why it has ended, if it has."""


class Contender(Protocol):
    """Somebody who can empty the ingress queue."""

    @property
    def name(self) -> str:
        """How tables call it."""

    @property
    def rates(self) -> Mapping[str, int]:
        """Messages per second to expect in each workload it takes part in; runs are sized by it."""

    @contextmanager
    def running(self, stage: Stage) -> Iterator[Running]:
        """Start it; stop it at the end, with SIGTERM."""


class RunningProcess:
    """One command and the processes it started."""

    def __init__(self, process: KeptProcess, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    def processes(self) -> list[psutil.Process]:
        """Return the command's process and its children."""
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Return user and system time of all its processes."""
        return sum((times.user + times.system for times in (one.cpu_times() for one in self.processes())), 0.0)

    def memory_mb(self) -> float:
        """Return the resident memory of the largest of them, in MiB."""
        return max((process.memory_info().rss for process in self.processes()), default=0) / 2**20

    def resident_mb(self) -> float:
        """Return the resident memory of all of them together, in MiB; what they share counts for each."""
        return float(sum(process.memory_info().rss for process in self.processes())) / 2**20

    def logged(self) -> Counter[str]:
        """Return how many lines of each event its log has so far."""
        lines = self._log.read_text().splitlines(keepends=True)
        return Counter(json.loads(line)["event"] for line in lines if line.startswith("{") and line.endswith("\n"))

    def kill(self) -> None:
        """End it and everything it started with SIGKILL."""
        self._process.kill()

    def complaint(self) -> str | None:
        """Return its exit and last words, if it has ended."""
        if self._process.is_running:
            return None
        return f"ended with {self._process.wait(1)}: " + self._log.read_text(errors="replace")[-2000:]


@dataclass(frozen=True, slots=True)
class Command:
    """A contender that is run as a process of its own: a Python module, or a program that *build* makes first."""

    name: str
    arguments: tuple[str, ...]
    rates: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    build: Callable[[], str] = lambda: sys.executable

    @contextmanager
    def running(self, stage: Stage) -> Iterator[RunningProcess]:
        """Start the command with the stage's addresses in its environment."""
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), **stage.environment, **self.environment}
        program = self.build()
        with tempfile.TemporaryDirectory(prefix="cim-bench-") as folder:
            log = Path(folder) / "log"
            process = KeptProcess([program, *self.arguments], environment=environment, log=log)
            try:
                yield RunningProcess(process, log)
            finally:
                process.terminate(_STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class Shovel:
    """The broker's own way of moving messages; all of them go to the first conversation."""

    name: str
    rates: Mapping[str, int]

    @contextmanager
    def running(self, stage: Stage) -> Iterator[Running]:
        """Declare a dynamic shovel and delete it at the end."""
        path = f"/parameters/shovel/{stage.vhost}/bench"
        own = f"amqp:///{stage.vhost}"
        value = {
            "src-protocol": "amqp091",
            "src-uri": own,
            "src-queue": contract.INGRESS,
            "src-prefetch-count": _SHOVEL_PREFETCH,
            "dest-protocol": "amqp091",
            "dest-uri": own,
            "dest-exchange": contract.HUB,
            "dest-exchange-key": stage.live[0].conversation_id,
            "ack-mode": "on-confirm",
            "dest-add-forward-headers": False,
        }
        stage.broker.management.request("PUT", path, {"value": value})
        try:
            yield _InsideBroker()
        finally:
            stage.broker.management.request("DELETE", path)


class _InsideBroker:
    def cpu_seconds(self) -> float:
        return 0.0

    def memory_mb(self) -> float:
        return 0.0

    def complaint(self) -> str | None:
        return None


def ours(processes: int, rates: Mapping[str, int], **environment: str) -> Command:
    """Return the real `cim-worker run` with default settings, but for *environment*."""
    name = f"cim-worker, {processes} process{'es' if processes > 1 else ''}"
    return Command(name, ("-m", "worker", "run", "--processes", str(processes)), rates, environment)


def ours_purely(processes: int, rates: Mapping[str, int]) -> Command:
    """Return the same without what is compiled."""
    usual = ours(processes, rates)
    arguments = ("-m", "tests.benchmarks.python_form", *usual.arguments[2:])
    return Command(f"{usual.name}, Python form", arguments, rates)


def _rival(name: str, module: str, prefetch: int, **rates: int) -> Command:
    arguments = ("-m", f"tests.benchmarks.rivals.{module}")
    return Command(name, arguments, rates, {"BENCH_PREFETCH": str(prefetch)} if prefetch else {})


def _built_go() -> str:
    """Build the contender in Go, where what it needs has changed since; its libraries come from the module proxy."""
    _GO_PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = ["go", "build", "-mod=readonly", "-o", str(_GO_PROGRAM), "."]
    done = subprocess.run(command, cwd=_GO_SOURCE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot build the contender in Go: {done.stderr[-1000:]}")
    return str(_GO_PROGRAM)


_MOST_AT_ONCE: Final = 2000
"""The prefetch that suits aio-pika and FastStream best, of 20 to 2000 tried; quorum queues give no more."""

OURS: Final = ours(1, {"live": 8000, "stored": 8000, "mixed": 8000})
OURS_PURE: Final = ours_purely(1, {"live": 6000, "stored": 6000, "mixed": 6000})
OURS_TWO: Final = ours(2, {"live": 9000, "stored": 9000, "mixed": 9000})
OURS_FOUR: Final = ours(4, {"live": 9000, "stored": 9000, "mixed": 9000})
BLOCKING: Final = _rival("BlockingConnection loop", "blocking_loop", 0, live=800, stored=800)
AIO_PIKA: Final = _rival(
    "aio-pika, concurrent", "aio_pika_concurrent", _MOST_AT_ONCE, live=2500, stored=1500, mixed=2000
)
FASTSTREAM: Final = _rival("FastStream, as documented", "faststream_documented", 0, live=1000, stored=1000)
FASTSTREAM_TUNED: Final = _rival(
    "FastStream, tuned", "faststream_tuned", _MOST_AT_ONCE, live=1500, stored=1200, mixed=1400
)
GO: Final = Command(
    "Go, amqp091-go",
    (),
    {"live": 9000, "stored": 7000, "mixed": 8000},
    {"BENCH_PREFETCH": str(_MOST_AT_ONCE)},
    _built_go,
)
SHOVEL: Final = Shovel("shovel (limit)", {"live": 15_000})

RIVALS: Final = (BLOCKING, AIO_PIKA, FASTSTREAM, FASTSTREAM_TUNED, *([GO] if shutil.which("go") else []))
"""Who can take part on this machine: the one in Go only where its toolchain is found."""
IS_COMPILED: Final = compiled.scan is not None
"""Whether `OURS` runs what is compiled; otherwise it is the Python form, and comes once."""
_FORMS: Final = (OURS, OURS_PURE) if IS_COMPILED else (OURS,)
ALL: Final[tuple[Contender, ...]] = (*_FORMS, OURS_TWO, OURS_FOUR, *RIVALS, SHOVEL)
