"""Services that are named in the environment are those that the tests run against, in however many processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_IN_THE_RUN = Path(__file__).with_name("given_services.py")


def test_a_broker_named_in_the_environment_reaches_the_other_processes_of_the_run() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "1", str(_IN_THE_RUN)]
    environment = {**os.environ, "CIM_SANDBOX_RABBITMQ_ROOT": "/given"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout
