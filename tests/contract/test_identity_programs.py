"""Programs in four languages, which know nothing of the worker, work out the ids of `schemas/identity-vectors.json`."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads((ROOT / "schemas" / "identity-vectors.json").read_bytes())
PROGRAMS = {
    "identity.py": (sys.executable,),
    "Identity.java": ("java",),
    "identity.go": ("go", "run"),
    "identity.mjs": ("node",),
}


@pytest.mark.parametrize("file", list(PROGRAMS))
def test_each_program_gives_the_ids_of_the_vectors(file: str, tmp_path: Path) -> None:
    program, *arguments = PROGRAMS[file]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    lines = [f"{encoded(vector['body'])} {vector.get('idempotencyKey', '')}" for vector in VECTORS]
    done = subprocess.run(
        [program, *arguments, str(ROOT / "tests" / "identity" / file)],
        input="".join(line + "\n" for line in lines).encode(),
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = [f"{encoded(v['messageId'])} {v['eventId']} {encoded(v['canonicalContent'])}" for v in VECTORS]
    assert done.stdout.decode().splitlines() == expected


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
