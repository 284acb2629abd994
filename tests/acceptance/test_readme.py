"""The README's own code, run as it stands, each piece as the broker user it names, with the documented rights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.documentation import ROOT, snippet, snippet_names
from tests.support.command import COMMAND, environment, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.database import Database

    from tests.services.services import Store

RUN_HERE = {"install", "apply", "open", "run", "subscribe", "publish", "shell"}


class Reader:
    """Somebody who copies code from the README, in the clone, with the addresses of this test."""

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


@pytest.fixture
def reader(url_of: Callable[[str], str], store: Store, database: str, tmp_path: Path) -> Reader:
    """Return somebody who copies code from the README."""
    return Reader(url_of, store, database, tmp_path)


def test_every_snippet_is_run_by_a_test_of_this_file() -> None:
    assert set(snippet_names()) == RUN_HERE


def test_what_the_publisher_of_the_readme_sends_reaches_the_subscriber_of_the_readme(reader: Reader) -> None:
    reader.runs("apply")
    reader.runs("open")

    with reader.starts("run"), reader.starts("subscribe"):
        wait_until(lambda: "listening" in reader.output_of("subscribe"))
        reader.runs("publish")
        wait_until(lambda: "VOICE_RECORDING RecorderApp" in reader.output_of("subscribe"))
        assert "ACCESS_REFUSED" not in reader.output_of("run")


def test_what_nobody_listens_to_is_in_the_store(reader: Reader, documents: Database[dict[str, object]]) -> None:
    reader.runs("apply")

    with reader.starts("run"):
        reader.runs("publish")
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-1"}))


def test_the_examples_are_published_from_a_shell(reader: Reader) -> None:
    reader.runs("apply")
    reader.runs("shell")

    assert re.search(r"^(\d+) messages: \1 confirmed,", reader.output_of("shell"), re.MULTILINE)


@pytest.mark.slow
def test_the_worker_is_installed_as_the_readme_says(tmp_path: Path) -> None:
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    clone.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    shutil.copytree(ROOT / "worker", clone / "worker", ignore=shutil.ignore_patterns("__pycache__"))

    finished = subprocess.run(
        ["bash", "-e", "-c", snippet("install").code],
        cwd=clone,
        env={**environment(), "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "externally-managed" not in finished.stderr
    assert finished.stdout.splitlines()[-1].startswith("cim-worker ")
    assert (home / "cim-worker" / "bin" / "cim-worker").exists()


def _as_last_process(code: str) -> str:
    """Let the last command take the shell's place, so that a signal to end it reaches it."""
    *before, last = code.strip().splitlines()
    return "\n".join([*before, f"exec {last}"]) + "\n"
