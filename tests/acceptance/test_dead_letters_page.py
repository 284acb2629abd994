"""deploy/dead-letters.md: its commands are run, in order, and print what the page says.

After a change of what is printed, `UPDATE_PAGES=1 pytest tests/acceptance/test_dead_letters_page.py` writes it anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.command import cim_worker, printed_json
from tests.support.eventually import eventually
from tests.support.terminal import printed_on_terminal
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from tests.services.services import Store

PAGE = Path(__file__).parents[2] / "deploy" / "dead-letters.md"
COLUMNS = 150
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "LETTER"),
    (re.compile(r"\bplan [0-9a-f]{12}\b"), "plan PLAN"),
    (re.compile(r"\bloan-\d\b"), "loan-N"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\b(job|fix|discard|replay) [0-9a-f]{8}\b"), r"\1 JOB"),
    (re.compile(r"^│ [0-9a-f]{8} │", re.MULTILINE), "│ JOB │"),
    (re.compile(r"(worker +)\d+\.\d\S*"), r"\1VERSION"),
    (re.compile(r"[─━]+"), "-"),
    (re.compile(r"[ \t]+"), " "),
)


def test_the_page_for_whoever_is_called_shows_what_the_commands_print(
    vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(vhost_url, store.uri, database, tmp_path)
    world.apply_topology()
    settings = {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="200") as pool:
        pool.wait_for("consuming")
        world.publish(*[_misspelt(number) for number in range(3)], b"a note, not a message", key="cim.ingress")

        def causes() -> dict[str, str]:
            found = printed_json(cim_worker("dead-letters", "--json", **settings))["causes"]
            return {one["code"]: one["handle"] for one in found} if sum(one["letters"] for one in found) == 4 else {}

        handles = eventually(causes)
        page = PAGE.read_text()
        commands = [line for block in _BLOCK.findall(page) for line in block.splitlines() if line.startswith("$ ")]
        assert len(commands) == page.count("\n$ ") > 0, "every command of the page stands in a block that is run"
        written = _BLOCK.sub(lambda block: _run_again(block[1], handles, settings), page)
    if os.environ.get("UPDATE_PAGES"):
        PAGE.write_text(written)
    assert _steady(written) == _steady(page)


def _misspelt(number: int) -> bytes:
    return json.dumps(
        {
            "id": f"loan-{number}",
            "header": {"sender": {"id": "loans", "type": "APP"}, "customer": {"id": "c-17"}},
            "body": {"type": "PLAIN", "markdownText": "The loan was approved."},
        }
    ).encode()


def _run_again(block: str, handles: dict[str, str], settings: dict[str, str]) -> str:
    """Return a block with what its commands print now; a code in place of a cause is replaced by the cause."""
    shown = ""
    for line in block.splitlines():
        if line.startswith("$ "):
            command = " ".join(handles.get(word, word) for word in line[2:].split(" "))
            output = printed_on_terminal(
                *shlex.split(command)[1:],
                columns=COLUMNS,
                TERM="dumb",
                COLUMNS=str(COLUMNS),
                LINES="50",
                LOGNAME="you",
                **settings,
            )
            shown += f"$ {command}\n{_unpadded(output)}"
    return f"```console\n{shown}```"


def _unpadded(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def _steady(text: str) -> str:
    for pattern, name in _VOLATILE:
        text = pattern.sub(name, text)
    return text
