"""schemathesis against a running gateway, with the gateway's own OpenAPI document: `make gateway-check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services.services import private_broker
from tests.support.gateway import gateway, virtual_host

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Return schemathesis' exit code."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    with (
        private_broker() as broker,
        virtual_host(broker) as url,
        tempfile.TemporaryDirectory() as folder,
        gateway(url, Path(folder)) as running,
    ):
        address = f"http://127.0.0.1:{running.port}/openapi.json"
        # What the hooks leave out is many of its examples, which is meant.
        command = [program, "run", address, "--suppress-health-check=filter_too_much", *sys.argv[1:]]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.acceptance.gateway_hooks", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, check=False, cwd=folder, env=os.environ | hooks).returncode


if __name__ == "__main__":
    sys.exit(main())
