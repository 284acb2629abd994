"""Hold every server that can be had here to the store's contract, one after the other: `make test-stores`.

    python -m tests.contract.store.every_server [NAME…]

`CIM_MONGODB_URI` set and no names: the server at that address only (tests that break a server use one of their own).
Without either: the embedded server and each other one whose language is installed; that only the embedded one can be
had is a failure, because then nothing shows that the code does not lean on its habits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.contract.store.servers import SERVERS, SHORTFALLS, is_available


def main(names: list[str]) -> int:
    """Run the suite on the servers of these names; return 0 when all of them keep the contract."""
    if not names and "CIM_MONGODB_URI" in os.environ:
        return 0 if _hold_to_contract(None) else 1
    wanted = names or [name for name in SERVERS if is_available(name)]
    verdicts = {name: _hold_to_contract(name) for name in wanted}
    print()
    for name, kept in verdicts.items():
        print(f"{name:20} {_verdict(name) if kept else 'BREAKS THE CONTRACT or could not start'}")
    if not names and len(verdicts) < 2:
        print("only the embedded server can be had here: install Go (FerretDB) or Maven with a JDK (mongo-java-server)")
        return 1
    return 0 if all(verdicts.values()) else 1


def _verdict(name: str) -> str:
    return f"keeps the contract{' but for what is known (XFAIL above)' if name in SHORTFALLS else ''}"


def _hold_to_contract(name: str | None) -> bool:
    print(f"\n== {name or 'the store at CIM_MONGODB_URI'} ==", flush=True)
    which = [] if name is None else ["--store", name]
    command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *which, "-q"]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
