"""What under deploy/ takes programs of others to check: `make deploy-check` (root, apt, pip; Go for some steps).

    python -m tests.deployment [--tools FOLDER] [STEP…]

Programs are made once and kept in FOLDER (.cache/deploy-tools): minutes for most; half an hour and 14 GB for `cluster`,
which therefore runs only when it is named. Each step prints what it saw; the exit code is 1 when one of them failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deployment import chart, cluster, image, monitoring, units
from tests.deployment.tools import CheckFailed, Tools
from tests.documentation import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS: dict[str, Callable[[Tools], str]] = {
    "units": units.verify,
    "compose": units.compose,
    "dockerfile": image.lint,
    "image": image.build_and_run,
    "chart": chart.check,
    "rules": monitoring.rules,
    "dashboard": monitoring.dashboard,
    "cluster": cluster.scale,
}
BY_NAME_ONLY = {"cluster"}


def main() -> int:
    """Run the steps that are named, or all but the long one."""
    parser = argparse.ArgumentParser(prog="make deploy-check", description=__doc__)
    parser.add_argument("--tools", type=Path, default=ROOT / ".cache" / "deploy-tools")
    parser.add_argument("--write", action="store_true", help="write the chart's manifests instead of comparing them")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}")
    options = parser.parse_args()
    tools = Tools(options.tools.resolve(), write=options.write)
    verdicts = [_run(name, tools) for name in options.steps or [name for name in STEPS if name not in BY_NAME_ONLY]]
    return 0 if all(verdicts) else 1


def _run(name: str, tools: Tools) -> bool:
    started = time.monotonic()
    try:
        said, verdict = STEPS[name](tools), "ok"
    except CheckFailed as error:
        said, verdict = str(error), "FAILED"
    except Exception:  # noqa: BLE001 - the other steps are still worth their answer
        said, verdict = traceback.format_exc(), "FAILED"
    print(f"{name:11} {verdict:6} {time.monotonic() - started:5.0f} s  {said}", flush=True)
    return verdict == "ok"


if __name__ == "__main__":
    sys.exit(main())
