"""Root file systems of other Debian releases, made with debootstrap once and kept in `.cache/roots`.

They bring programs that this machine's own release does not have. Nothing is installed on the machine but debootstrap.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.services import debian

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER: Final = Path(__file__).parents[2] / ".cache" / "roots"
_SOURCES: Final = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_ADDRESS: Final = re.compile(r"^(?:URIs:|deb)\s+(?:\[.*?\]\s+)?(\S+)", re.MULTILINE)
# An older debootstrap knows newer releases by this script, whatever their names.
_SCRIPT: Final = "/usr/share/debootstrap/scripts/sid"
_OF_THE_MACHINE: Final = ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt", "etc/pip.conf")
_SECONDS: Final = 1200


class RootError(Exception):
    """There is no such root and it cannot be made; the text says why."""


def made(name: str, suite: str, packages: Sequence[str]) -> Path:
    """Return the root *name*, made of Debian's *suite* with *packages* unless it is there already.

    Raises:
        RootError: it cannot be made here.
    """
    root = _FOLDER / name
    if (root / "complete").exists():
        return root.resolve()
    if not debian.can_install():
        raise RootError("another root file system needs root rights and apt-get")
    if shutil.which("debootstrap") is None:
        debian.install("debootstrap")
    shutil.rmtree(root, ignore_errors=True)
    (_FOLDER / "packages").mkdir(parents=True, exist_ok=True)
    _debootstrap(root, suite, packages)
    (root / "complete").touch()
    return root.resolve()


def given(root: Path) -> None:
    """Give *root* what programs in it need to reach package indexes as this machine does."""
    for name in _OF_THE_MACHINE:
        if Path("/", name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/", name), root / name)


def _debootstrap(root: Path, suite: str, packages: Sequence[str]) -> None:
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={_FOLDER / 'packages'}"]
    command += [f"--include={','.join(packages)}", suite, str(root), _mirror(), _SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode:
        last = "; ".join((done.stdout + done.stderr).splitlines()[-3:])
        raise RootError(f"debootstrap of {suite} failed: {last}")


def _mirror() -> str:
    for file in _SOURCES:
        if file.exists() and (found := _ADDRESS.search(file.read_text())):
            return found[1]
    raise RootError("apt has no address of Debian's packages")
