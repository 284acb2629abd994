"""systemd's own opinion of our units, and the compose file against the reference implementation of its format."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deployment.tools import CheckFailed
from tests.documentation import ROOT

if TYPE_CHECKING:
    from tests.deployment.tools import Tools

COMPOSE = "github.com/compose-spec/compose-go/v2"


def verify(tools: Tools) -> str:
    """Have systemd read the units; program and user, which are not here, stand for others that are."""
    program = tools.from_apt("systemd-analyze", "systemd")
    with tempfile.TemporaryDirectory() as folder:
        for file in (ROOT / "deploy" / "systemd").glob("cim-*"):
            text = file.read_text().replace("/opt/cim-worker/bin/cim-worker", "/bin/true")
            Path(folder, file.name).write_text(re.sub(r"^(User|Group)=cim$", r"\1=root", text, flags=re.MULTILINE))
        units = sorted(Path(folder).iterdir())
        said = tools.run(program, "verify", "--man=no", *units)
    if said.strip():
        raise CheckFailed(said)
    return f"systemd reads {len(units)} units without a complaint"


def compose(tools: Tools) -> str:
    """Check the compose file with the passwords that its own program makes."""
    program = tools.from_go("composecheck", f"{COMPOSE}/cmd", f"{COMPOSE}@v2.16.2")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "deploy")
        shutil.copytree(ROOT / "deploy", copy, ignore=shutil.ignore_patterns("secrets"))
        tools.run(sys.executable, copy / "compose" / "passwords.py")
        tools.run(program, copy / "compose.yaml")
        wrong = copy / "wrong.yaml"
        wrong.write_text((copy / "compose.yaml").read_text().replace("depends_on:", "depend_on:", 1))
        try:
            tools.run(program, wrong)
        except CheckFailed:
            return "compose-go takes the file, and refuses it with a misspelt key"
    raise CheckFailed("compose-go takes a misspelt key, so its yes means nothing")
