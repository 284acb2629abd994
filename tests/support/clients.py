"""The publishers of `schemas/examples/clients`, each built with its own toolchain and run as a program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.command import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2] / "schemas" / "examples" / "clients"
_BUILD_SECONDS = 300


@dataclass(frozen=True)
class Toolchain:
    """What turns one of the examples into a program."""

    programs: tuple[str, ...]
    """What has to be on this machine."""
    build: tuple[tuple[str, ...], ...]
    """What fetches its libraries and compiles it, one after the other."""
    run: tuple[str, ...]
    """What starts it, in its folder."""


TOOLCHAINS = {
    "python": Toolchain((), (), (sys.executable, "publish.py")),
    "javascript": Toolchain(("node", "npm"), (("npm", "install", "--silent", "--no-audit"),), ("node", "publish.mjs")),
    "go": Toolchain(("go",), (("go", "build", "-o", "publish", "."),), ("./publish",)),
    "java": Toolchain(
        ("java", "javac", "mvn"),
        (
            ("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"),
            ("javac", "-cp", "lib/*", "Publish.java"),
        ),
        ("java", "-cp", "lib/*:.", "Publish"),
    ),
}


@dataclass(frozen=True)
class Client:
    """A program that publishes the message in a file."""

    toolchain: Toolchain
    folder: Path

    def publish(self, file: Path, url: str, *, receipt_seconds: int = 30) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*self.toolchain.run, str(file)],
            cwd=self.folder,
            env=environment(CIM_RABBITMQ_URL=url, RECEIPT_SECONDS=str(receipt_seconds)),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @contextmanager
    def publishing(self, file: Path, url: str) -> Iterator[subprocess.Popen[str]]:
        """Run it in the background; end it at the end of the block if it still runs."""
        process = subprocess.Popen(
            [*self.toolchain.run, str(file)],
            cwd=self.folder,
            env=environment(CIM_RABBITMQ_URL=url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def built(language: str, folder: Path) -> Client:
    """Copy an example to *folder* and build it there; fails naming the program that this machine lacks."""
    toolchain = TOOLCHAINS[language]
    missing = [program for program in toolchain.programs if shutil.which(program) is None]
    assert not missing, f"the {language} client needs {' and '.join(missing)}, which this machine does not have"
    made = folder / language
    shutil.copytree(FOLDER / language, made, ignore=shutil.ignore_patterns("node_modules", "lib"))
    for command in toolchain.build:
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
        assert done.returncode == 0, f"{language}: {done.stdout}{done.stderr}"
    return Client(toolchain, made)
