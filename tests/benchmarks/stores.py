"""The stores the benchmark writes to: a fast one in memory, so that it hides nothing of the worker, and durable ones.

The fast one is mongo-java-server with its memory back end: fetched once from Maven Central, kept in `.cache`. It takes
50 000 documents a second and more in bundles, and about 3 000 single inserts or look-ups. The durable one is the best
this machine has; there every contender waits for a disk.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.contract.store import servers
from tests.services.store import LocalStore, StoreProcess, StoreStartError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = ("memory", *servers.SERVERS)
_SOURCE: Final = Path(__file__).parent / "memory_store"
_BUILT: Final = Path(__file__).parents[2] / ".cache" / "stores" / "memory"


def fastest() -> str:
    """Return the name of the fastest store this machine can run."""
    if all(map(shutil.which, ("java", "javac", "mvn"))):
        return "memory"
    return durable()


def durable() -> str:
    """Return the name of the best store on this machine that keeps its data on disk."""
    return next(name for name in ("mongod", "mongo-java-server", "ferretdb", "embedded") if servers.is_available(name))


@contextmanager
def running(name: str) -> Iterator[LocalStore]:
    """Start the store *name*, yield it, and leave nothing of it behind. Raises `StoreStartError`."""
    folder = Path(tempfile.mkdtemp(prefix="cim-bench-store-"))
    store = _memory_store(folder) if name == "memory" else servers.SERVERS[name](folder)
    try:
        store.start()
        yield store
    finally:
        store.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _memory_store(folder: Path) -> StoreProcess:
    if not (_BUILT / "MemoryStore.class").exists():
        _BUILT.mkdir(parents=True, exist_ok=True)
        _run("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={_BUILT}", "-DincludeScope=runtime")
        _run("javac", "-cp", f"{_BUILT}/*", "-d", str(_BUILT), "MemoryStore.java")
    command = ["java", "-Xmx6g", "-Xms3g", "-Xmn2g", "-XX:+UseParallelGC", "-cp", f"{_BUILT}:{_BUILT}/*", "MemoryStore"]
    return StoreProcess("mongo-java-server 1.47 in memory", lambda port: [*command, str(port)], folder)


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=_SOURCE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreStartError(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
