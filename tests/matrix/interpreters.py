"""Python interpreters and environments: each version that can be had, with the worker and its tests installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.matrix.place import CannotStartError
from tests.services import roots

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache" / "matrix"
SID: Final = ("sid", "sid", ("rabbitmq-server", "python3", "python3-venv", "ca-certificates", "procps"))
"""A root with the newest RabbitMQ and Python of Debian: its name, its suite, its packages."""
_PINNED: Final = re.compile(r"^([A-Za-z0-9_-]+)(?:\[[^]]*\])?>=([0-9.]+)")
_SECONDS: Final = 900
_ENTER: Final = (
    'mount -t proc proc "$0/proc"; mkdir -p "$0/$1"; mount --bind "$1" "$0/$1"; cd "$0/$1"; '
    'root=$0; tree=$1; shift; exec chroot "$root" env --chdir="$tree" "$@"'
)


def environment(name: str, version: str, requirements: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the command of a Python of *version* (3.12) with the worker, its tests and *requirements* installed.

    Raises:
        CannotStartError: there is no such Python, or its libraries cannot be installed.
    """
    found = _found(version)
    prefix = _inside(found) if isinstance(found, Path) else ()
    python = "/usr/bin/python3" if isinstance(found, Path) else found
    folder = CACHE / "environments" / name
    complete, declared = folder / "complete", (ROOT / "pyproject.toml").read_text()
    if not complete.exists() or complete.read_text() != declared:
        _run(*prefix, python, "-m", "venv", "--clear", str(folder))
        pip = (
            *prefix,
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
        )
        _run(*pip, "--editable", f"{ROOT}[test]", *requirements)
        complete.write_text(declared)
    return (*prefix, str(folder / "bin" / "python"))


def oldest() -> list[str]:
    """Return the oldest version that `pyproject.toml` allows of everything the worker itself needs."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [f"{found[1]}=={found[2]}" for one in declared if (found := _PINNED.match(one))]


def versions(python: Sequence[str], *names: str) -> str:
    """Return Python's version and those of the packages *names*."""
    code = "import sys, importlib.metadata as m; print(sys.version.split()[0], *map(m.version, sys.argv[1:]))"
    said = _run(*python, "-c", code, *names).split()
    return ", ".join(f"{name} {version}" for name, version in zip(("Python", *names), said, strict=True))


def _found(version: str) -> str | Path:
    """Return a program, or the root of a Debian release that has it."""
    for program in (sys.executable, shutil.which(f"python{version}"), *_of_pyenv(version)):
        if program and _is(program, version):
            return program
    return _of_debian(version)


def _of_pyenv(version: str) -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(one / "bin" / "python") for one in sorted(pyenv.glob(f"{version}.*"), reverse=True)]


def _of_debian(version: str) -> Path:
    try:
        root = roots.made(*SID)
    except roots.RootError as error:
        raise CannotStartError(f"no Python {version} on this machine or in pyenv; {error}") from error
    if not (root / "usr/bin" / f"python{version}").exists():
        raise CannotStartError(f"no Python {version} on this machine, in pyenv or in Debian's {SID[1]}")
    roots.given(root)
    return root


def _is(program: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def _inside(root: Path) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-ec", _ENTER, str(root), str(ROOT))


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-2:])
        raise CannotStartError(f"{Path(command[0]).name} failed: {last}")
    return done.stdout
