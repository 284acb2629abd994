"""Installs a Debian or Ubuntu package when we may, without starting the service that comes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_POLICY = Path("/usr/sbin/policy-rc.d")


class InstallError(Exception):
    """apt-get failed; the text ends with its last lines."""


def can_install() -> bool:
    """Tell whether this process is root on a machine with apt-get."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str, *, services: tuple[str, ...] = ()) -> None:
    """Install a package; its `services` are neither started now nor at the next boot.

    Raises:
        InstallError: apt-get failed.
    """
    with _nothing_started():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", package)
    if services and shutil.which("systemctl"):
        # Without a running systemd this does nothing and may fail: there is no next boot to care about then.
        subprocess.run(["systemctl", "disable", "--quiet", *services], capture_output=True, check=False)


def _apt_get(*arguments: str) -> None:
    finished = subprocess.run(
        ["apt-get", "-qq", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode:
        last_lines = "\n".join(finished.stdout.splitlines()[-10:])
        message = f"apt-get {' '.join(arguments)} failed:\n{last_lines}"
        raise InstallError(message)


@contextmanager
def _nothing_started() -> Iterator[None]:
    """Use Debian's own way to say that installing must not start services; leave a policy that is there alone."""
    if _START_POLICY.exists():
        yield
        return
    _START_POLICY.write_text("#!/bin/sh\nexit 101\n")
    _START_POLICY.chmod(0o755)
    try:
        yield
    finally:
        _START_POLICY.unlink()
