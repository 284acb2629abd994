"""FerretDB 2 over PostgreSQL with the extension DocumentDB: two programs that are started and broken as one server.

PostgreSQL and the extension are Debian's, in a root file system of a release that has them (made once, 0.9 GB);
FerretDB is built from the Go module proxy. Both are kept in `.cache`. Needs root rights and Go.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
import weakref
from typing import TYPE_CHECKING, Final

from tests.services import roots
from tests.services.processes import KeptProcess, free_ports
from tests.services.store import StoreProcess, StoreStartError

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = "2.7.0"
_PACKAGES: Final = ("postgresql-18", "postgresql-18-documentdb")
_PROGRAMS: Final = "/usr/lib/postgresql/18/bin:/usr/bin:/bin"
# PostgreSQL refuses to run as root; it needs shared memory of its own, and /proc.
_INSIDE: Final = (
    'mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/dev/shm"; '
    'exec chroot "$0" setpriv --reuid postgres --regid postgres --clear-groups '
    f'env -i HOME=/tmp LANG=C.UTF-8 PATH={_PROGRAMS} "$@"'
)
_SETTINGS: Final = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '/tmp'
cron.database_name = 'postgres'
shared_preload_libraries = 'pg_cron,pg_documentdb_core,pg_documentdb'
"""
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_COMMAND_SECONDS: Final = 60.0


class FerretDb2(StoreProcess):
    """A `LocalStore` of FerretDB in front of its own PostgreSQL. Frozen is the front, killed are both."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Run *program*, FerretDB built already, with logs in *folder*."""
        self._root = _root()
        self._database_port = free_ports(1)[0]
        self._inside = f"/var/lib/postgresql/cim-{secrets.token_hex(6)}"
        self._data = self._root / self._inside.lstrip("/")
        weakref.finalize(self, shutil.rmtree, self._data, ignore_errors=True)  # it is not in *folder*
        self._folder = folder
        self._database: KeptProcess | None = None
        address = f"postgres://postgres@127.0.0.1:{self._database_port}/postgres"
        super().__init__(
            f"FerretDB {VERSION} over PostgreSQL 18 with DocumentDB",
            lambda port: [
                str(program),
                f"--postgresql-url={address}",
                f"--listen-addr=127.0.0.1:{port}",
                "--no-auth",
                "--telemetry=disable",
                f"--state-dir={folder}",
                "--debug-addr=-",
            ],
            folder,
        )

    def start(self) -> None:
        """Start both and wait until they answer. Raises `StoreStartError`."""
        if not self._data.exists():
            self._make_cluster()
        self._start_database()
        super().start()

    def stop(self) -> None:
        """End both in order."""
        super().stop()
        if self._database is not None:
            self._database.terminate(_STOP_SECONDS)
            self._database = None

    def kill(self) -> None:
        """End both with SIGKILL; PostgreSQL's own processes follow their parent."""
        super().kill()
        if self._database is not None:
            self._database.kill()
            self._database = None

    def _make_cluster(self) -> None:
        self._run("initdb", "-D", self._inside, "-A", "trust", "-U", "postgres")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(port=self._database_port))
        self._start_database()
        self._run(*self._query("CREATE EXTENSION documentdb CASCADE"))

    def _start_database(self) -> None:
        """Start PostgreSQL; what a killed one left needs a moment to go, so try again until it is up."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._database is None or not self._database.is_running:
                command = self._command_inside("postgres", "-D", self._inside)
                log = self._folder / "postgresql.log"
                self._database = KeptProcess(command, environment=os.environ, log=log)
            if time.monotonic() > deadline:
                said = (self._folder / "postgresql.log").read_text()[-2000:]
                raise StoreStartError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        if self._database is None:
            return False
        command = self._command_inside(*self._query("SELECT 1"))
        return subprocess.run(command, capture_output=True, check=False, timeout=_COMMAND_SECONDS).returncode == 0

    def _query(self, text: str) -> tuple[str, ...]:
        return ("psql", "-h", "127.0.0.1", "-p", str(self._database_port), "-U", "postgres", "-qc", text)

    def _run(self, *command: str) -> None:
        inside = self._command_inside(*command)
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
        if done.returncode:
            raise StoreStartError(f"{command[0]} failed: {done.stderr[-1000:]}")

    def _command_inside(self, *command: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", _INSIDE, str(self._root), *command]


def _root() -> Path:
    try:
        root = roots.made("documentdb", "sid", _PACKAGES)
    except roots.RootError as error:
        raise StoreStartError(str(error)) from error
    (root / "dev/shm").mkdir(exist_ok=True)
    hosts = root / "etc/hosts"
    if not hosts.exists():
        hosts.write_text("127.0.0.1 localhost\n")
    return root
