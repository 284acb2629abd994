"""Finds Chromium, or installs it with apt where that is possible: `python -m tests.browser.chromium`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str:
    """Return the path of the browser; fail with what to do when there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, "no Chromium on this machine: apt-get install chromium, or make desk-test as root"
    return found


def install() -> None:
    """Install it where there is none and we may; about 130 MB, half a minute."""
    if any(map(shutil.which, _NAMES)) or os.geteuid() or not shutil.which("apt-get"):
        return
    print("installing chromium with apt …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "-y", "--no-install-recommends", "chromium")):
        subprocess.run(["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    install()
    sys.exit(0 if find() else 1)
