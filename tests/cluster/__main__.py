"""Runs the tests of this folder on each RabbitMQ there is: `python -m tests.cluster [--root FOLDER]… [pytest's …]`.

That is the machine's own, and those in the root file systems named by `--root` or `CIM_SANDBOX_RABBITMQ_ROOT`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.services.broker import find_program, installed_version

FOLDER = str(Path(__file__).parent)
_PATIENCE = ("-o", "faulthandler_timeout=600")
"""Each node drained and restarted in turn takes more than the three minutes of other tests, where a machine is busy."""


def main() -> int:
    """Return 0 when every run passed, and at least one was possible."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="Three nodes, broken in every way.")
    parser.add_argument("--root", type=Path, action="append", default=[], help="root file system with another RabbitMQ")
    options, rest = parser.parse_known_args()
    given = os.environ.pop("CIM_SANDBOX_RABBITMQ_ROOT", None)
    roots = [None, *([Path(given)] if given else []), *options.root]
    results = [(_named(root), _run(root, rest)) for root in roots]
    print("\nthree nodes of")
    for name, result in results:
        print(f"  RabbitMQ {name}: {result}")
    if len(roots) == 1:
        print("  a newer RabbitMQ: not run; name its root file system (tests/README.md, Services)")
    return 0 if all(result == "passed" for _, result in results) else 1


def _named(root: Path | None) -> str:
    version = ".".join(map(str, installed_version(root))) or "of an unknown version"
    return f"{version} in {root}" if root else f"{version} of this machine"


def _run(root: Path | None, arguments: list[str]) -> str:
    if root is not None and find_program("rabbitmq-server", root) is None:
        return f"not run: there is none in {root}"
    if root is not None:
        os.environ["CIM_SANDBOX_RABBITMQ_ROOT"] = str(root)
    # In a process of its own: what tests import and open must not be there twice.
    pid = os.fork()
    if pid == 0:
        os._exit(pytest.main([FOLDER, *_PATIENCE, *arguments]))
    _, status = os.waitpid(pid, 0)
    return "passed" if status == 0 else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
