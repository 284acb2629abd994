"""Load for an HTTP port from wrk, which takes little of the processor: one request after the other per connection.

`python -m tests.benchmarks.http_load PORT --connections 64 --seconds 5` prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.messages import SIZE_BYTES
from tests.services.debian import can_install, install
from tests.support.gateway import ACTIVITIES

_SCRIPT = Path(__file__).with_name("activities.lua")
_ID = "IDENTIFIER"
"""Where `activities.lua` puts an id of this length."""


@dataclass(frozen=True)
class Load:
    """What came of it."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers other than 2xx."""
    failed: int
    """Connections that broke, and requests without an answer."""
    cpu_seconds: float
    """What the load itself took."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def message(size: int = SIZE_BYTES) -> bytes:
    """Return a stand-alone activity of exactly *size* bytes, with a place for its id."""
    document = {
        "id": _ID,
        "header": {
            "channelData": {"channelCustomerIdentifier": "441122", "additionalAttributes": []},
            "timestamp": 1764000001234,
            "intent": "LOAD",
            "conversationId": "6650f0a1c5d4f7a1b2c3d4e5",
            "customer": {"_id": "6650f0a1c5d4f7a1b2c3d4ff"},
            "sender": {"id": "load-1", "type": "APP", "senderName": "LOAD"},
        },
        "body": {"type": "PLAIN", "markdownText": ""},
    }
    empty = json.dumps(document, separators=(",", ":")).encode()
    padding = b"x" * (size - len(empty))
    return empty.replace(b'"markdownText":""', b'"markdownText":"%b"' % padding)


def install_wrk() -> None:
    """Install wrk where that is possible and it is missing."""
    if shutil.which("wrk") is None:
        if not can_install():
            raise SystemExit("wrk makes the load; on Debian or Ubuntu: sudo apt-get install wrk")
        install("wrk")


def run(port: int, connections: int, seconds: float) -> Load:
    """Return what *connections* brought about in *seconds*, one of which at least."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(message())
        address = f"http://127.0.0.1:{port}{ACTIVITIES}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(_SCRIPT), address]
        first = str(int(time.time() * 1000) & 0x7FFFFFFF)
        before = _cpu_of_children()
        finished = subprocess.run(
            [*command, "--", file.name, first], check=True, capture_output=True, timeout=60 + seconds
        )
    return Load(**json.loads(finished.stdout.splitlines()[-1]), cpu_seconds=_cpu_of_children() - before)


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    install_wrk()
    load = run(options.port, options.connections, options.seconds)
    print(json.dumps({"per_second": round(load.per_second), **dataclasses.asdict(load)}))


if __name__ == "__main__":
    main()
