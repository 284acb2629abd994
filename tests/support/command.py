"""Runs the real `cim-worker` as a subprocess, with nothing of this environment but the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = str(Path(sys.executable).with_name("cim-worker"))
_SECONDS = 150


def cim_worker(*arguments: str | Path, stdin: str | bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with the settings *variables* and return what it said."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    finished = subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=data,
        capture_output=True,
        check=False,
        env=environment(**variables),
        timeout=_SECONDS,
    )
    output, errors = finished.stdout.decode(), finished.stderr.decode()
    return subprocess.CompletedProcess(finished.args, finished.returncode, output, errors)


@contextmanager
def running(*command: str | Path, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, its output going to *log*; stop it with SIGTERM at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output, env=environment(**variables))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return when *condition* is true; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def printed_json(finished: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON a command printed."""
    return json.loads(finished.stdout)


def own_home(home: Path) -> dict[str, str]:
    """Return an environment of somebody whose home is empty; what pip has downloaded before is still at hand."""
    cache = os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip")
    return {**environment(), "HOME": str(home), "PIP_CACHE_DIR": cache, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def environment(**variables: str) -> dict[str, str]:
    """Return an environment for a command: no settings but *variables*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CIM_")}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "160", **variables}
