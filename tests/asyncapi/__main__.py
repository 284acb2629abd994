"""`make schemas-check`: the documents in `schemas/`, judged by programs that others wrote. Needs Node.js and npm.

Installs the official AsyncAPI parser and Ajv into `.cache/asyncapi`, and hands Ajv documents of every kind with the
verdict of the validator that `make test` uses: both have to read our patterns and rules alike.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.support.from_schema import Schema, changed
from worker.schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "asyncapi"
FILES = {
    "message": [*(ROOT / "schemas" / "examples").glob("*.json"), *(ROOT / "tests" / "cases").glob("*.json")],
    "lifecycle": [*(ROOT / "schemas" / "examples" / "lifecycle").glob("*.json")],
}
MADE = 500


def main() -> int:
    """Run the check and return its exit code."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        print(f"schemas-check: {' and '.join(missing)} missing; on Debian: apt-get install nodejs npm", file=sys.stderr)
        return 2
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", CACHE)
    subprocess.run(["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=CACHE, check=True)
    documents = {one.name: [*_judged(one.name, Schema(one.make()))] for one in SCHEMAS}
    (CACHE / "documents.json").write_text(json.dumps(documents))
    return subprocess.run(["node", str(HERE / "check.mjs"), str(CACHE)], check=False).returncode


def _judged(name: str, schema: Schema) -> Iterator[dict[str, Any]]:
    """Yield documents with our verdict: examples, files, and some that are made of the schema and spoilt."""
    random = Random(name)
    documents = [*schema.document["examples"], *(json.loads(file.read_bytes()) for file in FILES.get(name, ()))]
    for _ in range(MADE):
        documents.append(schema.make(random))
        documents.append(changed(documents[-1], random))
    yield from ({"document": one, "valid": schema.accepts(one)} for one in documents)


if __name__ == "__main__":
    sys.exit(main())
