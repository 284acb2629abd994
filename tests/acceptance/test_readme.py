"""The README's own code, run as it stands, each piece as the broker user it names, with the documented rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.documentation import README, ROOT, snippet, snippet_names
from tests.support.command import own_home, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.support.reader import Reader

RUN_HERE = {"install", "apply", "open", "run", "subscribe", "publish", "shell"}


def test_every_snippet_is_run_by_a_test_of_this_file() -> None:
    assert set(snippet_names(README)) == RUN_HERE


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
        env=own_home(home),
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "externally-managed" not in finished.stderr
    assert finished.stdout.splitlines()[-1].startswith("cim-worker ")
    command = home / "cim-worker" / "bin" / "cim-worker"
    subprocess.run([command, "schemas", "--output", tmp_path / "contract"], cwd=home, check=True, capture_output=True)
    written = {file.name: file.read_bytes() for file in (tmp_path / "contract").iterdir()}
    assert written == {name: (ROOT / "schemas" / name).read_bytes() for name in written}, "made by the installed code"
    assert len(written) > 10
