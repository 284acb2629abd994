"""The worker pool as a real subprocess, run from a snapshot of the package, and what can be learnt from outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY: Final = Path(__file__).resolve().parents[2]
MARK: Final = "CIM_CHAOS_RUN"
"""An environment variable by which every process of a run can be found, whoever started it."""
# The pool ends with the harness, however that one dies: SIGTERM when the parent ends (prctl 1 is PR_SET_PDEATHSIG).
_GUARD = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
POISONABLE: Final = str(REPOSITORY / "tests" / "support" / "poisonable.py")
_AT_ONCE_SECONDS = 0.5
_LINES_ALIKE, _WITHIN_SECONDS = 100, 10.0
"""How many lines of one event and reason a process writes within that time; it drops the others."""
_CUT_START: Final = re.compile(
    r"Traceback \(most recent call last\):\n"
    r'  File "<string>", line 1, in <module>\n'
    r'(?:  File "[^"\n]*/multiprocessing/spawn\.py", [^\n]*\n(?:    [^\n]*\n)+)+'
    r"EOFError: Ran out of input"
)
"""What Python itself writes, before any code of ours, in a process whose supervisor is killed while it starts it."""


def snapshot(folder: Path) -> Path:
    """Copy the worker package into *folder* and return it: edits to the tree during a run must change nothing."""
    shutil.copytree(REPOSITORY / "worker", folder / "worker", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class LogPipe:
    """The pool's output: a small pipe into a file, whose reader can stand still as a log collector may."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._there, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
        self._reading = threading.Event()
        self._reading.set()
        self._thread = threading.Thread(target=self._copy, name="log pipe", daemon=True)
        self._thread.start()

    def stop_reading(self) -> None:
        """Let the pipe fill."""
        self._reading.clear()

    def go_on(self) -> None:
        """Read on."""
        self._reading.set()

    def close(self) -> None:
        """Read to the end; every process that writes has to be gone."""
        self.go_on()
        os.close(self.writer)
        self._thread.join()
        os.close(self._there)

    def _copy(self) -> None:
        with self._log.open("ab", buffering=0) as file:
            while data := os.read(self._there, select.PIPE_BUF):
                file.write(data)
                self._reading.wait()


class Pool:
    """Runs `cim-worker run --processes N`; after a kill a new one can be started while orphans still end."""

    def __init__(self, code: Path, log: Path, environment: Mapping[str, str], mark: str) -> None:
        self._code = code
        self.log = log
        self.output = LogPipe(log)
        self._mark = mark
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CIM_")}
        self._environment = {**inherited, **environment, "PYTHONPATH": str(code), MARK: mark}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def command(self, *arguments: str) -> None:
        """Run one `cim-worker` command to its end. Raises CalledProcessError with its output."""
        subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=self._code,
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def start(self, processes: int = 2, *, frame_max: int | None = None) -> None:
        """Start the supervisor; an older one may still be ending. Call from the main thread only.

        *frame_max*: the largest frames it asks the broker for; the client's default unless given.
        """
        self.starts += 1
        environment = dict(self._environment)
        if frame_max is not None:
            urls = environment["CIM_RABBITMQ_URL"].split(",")
            environment["CIM_RABBITMQ_URL"] = ",".join(f"{url}?frame_max={frame_max}" for url in urls)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _GUARD, POISONABLE, "run", "--processes", str(processes)],
            cwd=self._code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.output.writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        """The newest supervisor."""
        assert self._process is not None
        return self._process

    def children(self) -> list[int]:
        """Return the process ids of the newest supervisor's workers."""
        found: list[int] = []
        for pid in self.alive() if self._process is not None else ():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                is_worker = b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
                if int(stat[1]) == self.supervisor.pid and is_worker:
                    found.append(pid)
        return found

    def alive(self) -> list[int]:
        """Return every process of this run that still lives: supervisors, workers and their trackers."""
        needle = f"{MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def memory_mib(self) -> dict[int, tuple[float, float]]:
        """Return the resident memory of each worker process, now and at most so far."""
        sizes = {}
        for pid in self.children():
            with contextlib.suppress(OSError, KeyError):
                lines = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                kib = {name: int(rest.split()[0]) for name, rest in lines if name in {"VmRSS", "VmHWM"}}
                sizes[pid] = (kib["VmRSS"] / 1024, kib["VmHWM"] / 1024)
        return sizes

    def wait_for_end(self, pids: list[int], seconds: float) -> list[int]:
        """Wait until processes are gone; return those that are not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None:
                self._process.poll()  # reaps it
            pids = [pid for pid in pids if _is_alive(pid)]
            if not pids:
                break
            time.sleep(0.1)
        return pids

    def stand_still(self, pids: list[int]) -> None:
        """Stop processes without ending them."""
        _signal_all(pids, signal.SIGSTOP)

    def go_on(self, pids: list[int]) -> None:
        """Let stopped processes go on."""
        _signal_all(pids, signal.SIGCONT)

    def open_files(self) -> int:
        """Return how many descriptors the supervisor has open."""
        return len(list(Path(f"/proc/{self.supervisor.pid}/fd").iterdir()))

    def kill_everything(self) -> None:
        """End every process of this run, by id: the last resort, and the clean-up after a failed run."""
        _signal_all(self.alive(), signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
        self.output.close()


class GivenUp(NamedTuple):
    """One line that says the order of a key was given up."""

    key: str
    at: float
    """Epoch seconds."""
    until: float
    """The same, unless the log has dropped lines like it since: then when that ended."""


@dataclass
class LogFacts:
    """What the JSON logs of all processes tell."""

    sessions: int = 0
    drained: int = 0
    ended_cleanly: int = 0
    received: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    unbalanced: list[str] = field(default_factory=list)
    """Final counts that do not add up."""
    outages: dict[str, int] = field(default_factory=dict)
    flaps: int = 0
    """How often a process said that an outage of the store is over, and at once that another begins; or that it came
    back, and failed again."""
    given_up: list[GivenUp] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Lines that are not JSON: tracebacks and warnings do not belong there."""


def read_log(log: Path) -> LogFacts:
    """Read the log of a pool."""
    facts = LogFacts()
    over: dict[int, float] = {}
    given_up: dict[tuple[int, str], list[GivenUp]] = defaultdict(list)
    for entry in _entries(log, facts):
        what = entry.get("event")
        if what == "consuming":
            facts.sessions += 1
        elif what == "drained":
            facts.drained += 1
        elif what == "dependency_down":
            key = f"{entry.get('dependency')} {entry.get('code')}"
            facts.outages[key] = facts.outages.get(key, 0) + 1
            if entry.get("dependency") == "store" and entry.get("outage_seconds") is None:
                facts.flaps += _seconds(entry) - over.get(entry["pid"], 0.0) < _AT_ONCE_SECONDS
        elif what == "dependency_up" and entry.get("dependency") == "store":
            over[entry["pid"]] = _seconds(entry)
            facts.flaps += entry.get("times", 1) - 1
        elif what == "order_given_up":
            at = _seconds(entry)
            given_up[entry["pid"], entry["reason"]].append(GivenUp(entry["key"], at, at))
        elif what == "worker_stopped":
            _read_final_counts(entry, facts)
    facts.unreadable = _CUT_START.sub("", "\n".join(facts.unreadable)).split("\n")
    facts.unreadable = [line for line in facts.unreadable if line]
    facts.given_up = [line for lines in given_up.values() for line in _with_dropped(lines)]
    return facts


def _with_dropped(lines: Sequence[GivenUp]) -> Iterator[GivenUp]:
    """Yield lines alike of one process; of a run that was cut short the last of each key, until lines came again."""
    begin = 0
    while begin < len(lines):
        ends_at = lines[begin].at + _WITHIN_SECONDS
        run = [line for line in lines[begin : begin + _LINES_ALIKE] if line.at < ends_at]
        begin += len(run)
        yield from run
        if len(run) == _LINES_ALIKE:
            yield from {line.key: line._replace(until=ends_at) for line in run}.values()


def _seconds(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()


def _entries(log: Path, facts: LogFacts) -> Iterator[dict[str, Any]]:
    with log.open(errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                if line.strip() and len(facts.unreadable) < 50:
                    facts.unreadable.append(line.rstrip())
                continue
            yield entry


_OUTCOMES = ("published", "stored", "duplicate", "waiting", "retry", "dead", "handed_back")


def _read_final_counts(entry: dict[str, Any], facts: LogFacts) -> None:
    facts.ended_cleanly += 1
    outcomes = {name: int(entry.get(name, 0)) for name in _OUTCOMES}
    facts.received += int(entry["received"])
    for name, count in outcomes.items():
        facts.outcomes[name] = facts.outcomes.get(name, 0) + count
    if entry["received"] != sum(outcomes.values()):
        facts.unbalanced.append(f"received {entry['received']}, outcomes {outcomes}")


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
