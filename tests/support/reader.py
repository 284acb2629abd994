"""Somebody who follows a page of the documentation: runs its code as it stands, as the broker user it names."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.documentation import ROOT, snippet
from tests.support.command import COMMAND, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.services.services import Store


class Reader:
    """Somebody who copies code from a page, in the clone, with the addresses of this test."""

    def __init__(self, url_of: Callable[[str], str], store: Store, database: str, folder: Path) -> None:
        self._url_of = url_of
        self._variables = {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}
        self._folder = folder

    def runs(self, name: str) -> None:
        """Run a snippet to its end; it has to succeed."""
        with self.starts(name) as process:
            assert process.wait(60) == 0, self.output_of(name)

    @contextmanager
    def starts(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a snippet in the background, and end it with SIGTERM."""
        code, user = snippet(name).code, snippet(name).user
        assert user, name
        file = self._folder / name
        is_python = code.startswith("import")
        file.write_text(code if is_python else f"set -e\ncd '{ROOT}'\n{_as_last_process(code)}")
        program = sys.executable if is_python else "bash"
        path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
        variables = {**self._variables, "CIM_RABBITMQ_URL": self._url_of(user), "PATH": path}
        with running(program, file, log=self._folder / f"{name}.log", **variables) as process:
            yield process

    def output_of(self, name: str) -> str:
        """Return what a snippet said so far."""
        return (self._folder / f"{name}.log").read_text()


def _as_last_process(code: str) -> str:
    """Let the last command take the shell's place, so that a signal to end it reaches it."""
    *before, last = code.strip().splitlines()
    return "\n".join([*before, f"exec {last}"]) + "\n"
