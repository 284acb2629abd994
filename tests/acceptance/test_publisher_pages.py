"""The code of the pages for publishers and subscribers, run as it stands by the broker user it names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.documentation import ROOT, SCHEMAS, SUBSCRIBING, snippet, snippet_names
from tests.support.command import environment, own_home, wait_until
from tests.support.examples import FOLDER
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo.database import Database

    from tests.support.reader import Reader


def test_every_snippet_is_run_by_a_test_of_this_file() -> None:
    assert set(snippet_names(SCHEMAS, SUBSCRIBING)) == {"validate", "recipe", "lifecycle_queue", "follow", "history"}


def test_the_examples_are_validated_as_the_page_says(reader: Reader) -> None:
    reader.runs("validate")

    assert "loan_step.json\t1\tvalid" in reader.output_of("validate")
    assert '"with_warnings": 0' in reader.output_of("validate")


def test_a_conversation_is_followed_from_its_start_to_its_end_and_then_read(
    reader: Reader, url_of: Callable[[str], str], documents: Database[dict[str, Any]]
) -> None:
    platform, publisher = url_of("platform (conversation events)"), url_of("publisher")

    def tell(name: str, at: int, **data: Any) -> None:
        event = {"name": name, "timestamp": at, "conversationId": "c-1", "data": data}
        publish(platform, "cim.conversation-events", name, event)

    def said(line: str) -> None:
        wait_until(lambda: line in reader.output_of("follow").splitlines())

    reader.runs("apply")
    reader.runs("lifecycle_queue")
    with reader.starts("run"), reader.starts("follow"):
        publish(publisher, "cim.ingress", "c-1", message("before"))
        wait_until(lambda: documents["ConversationActivities"].count_documents({}) == 1)
        tell("CHANNEL_SESSION_STARTED", 1_760_000_000_000, id="s-1", conversationId="c-1", state={"name": "STARTED"})
        said("following c-1")
        publish(publisher, "cim.ingress", "c-1", message("during"))
        said("activity c-1 DURING")
        tell("TOPIC_STATE_CHANGED", 1_760_000_001_000, id="c-1", state="ACTIVE")
        wait_until(lambda: reader.output_of("follow").splitlines().count("following c-1") == 2)
        tell("TOPIC_STATE_CHANGED", 1_760_000_002_000, id="c-1", state="CLOSED")
        said("closed c-1")
        wait_until(lambda: documents["conversations"].find_one({"state": "CLOSED"}))
        publish(publisher, "cim.ingress", "c-1", message("after"))
        wait_until(lambda: documents["ConversationActivities"].count_documents({}) == 2)
        reader.runs("history")

    history = [line.split()[1:] for line in reader.output_of("history").splitlines()]
    assert history[0] == ["unknown_conversation", "BEFORE"]
    assert history[1][1] == "AFTER"
    assert "ACCESS_REFUSED" not in reader.output_of("follow") + reader.output_of("run")


@pytest.mark.slow
def test_another_team_checks_its_messages_with_the_wheel_and_nothing_else(tmp_path: Path) -> None:
    wheel = built_wheel(tmp_path)
    messages = tmp_path / "messages"
    messages.mkdir()
    shutil.copy(FOLDER / "loan_step.json", messages)
    code = snippet("recipe").code

    good = recipe(code, tmp_path, wheel)
    (messages / "bad.json").write_text('{\n "header": {}\n}')
    bad = recipe(code.splitlines()[-1], tmp_path, wheel)

    assert good.returncode == ExitCode.OK, good.stdout + good.stderr
    assert "1 message: 1 valid, 0 rejected" in good.stdout
    assert bad.returncode == ExitCode.REJECTED
    assert "messages/bad.json:2:12: error: missing_anchor at /header" in bad.stdout


def built_wheel(folder: Path) -> Path:
    """Build the wheel of this tree into *folder*, as `make wheel` does."""
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    subprocess.run(command, check=True, env=environment())
    (wheel,) = folder.glob("cim_worker-*.whl")
    return wheel


def recipe(code: str, folder: Path, wheel: Path) -> subprocess.CompletedProcess[str]:
    """Run *code* in *folder* with a shell that knows nothing of this tree."""
    path = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-e", "-c", code],
        cwd=folder,
        env={**own_home(folder), "PATH": path, "CIM_WORKER_WHEEL": str(wheel)},
        capture_output=True,
        text=True,
        check=False,
    )


def message(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "header": {"sender": {"id": "app-1", "type": "APP"}, "conversationId": "c-1"},
        "body": {"type": name.upper()},
    }


def publish(url: str, exchange: str, key: str, document: dict[str, Any]) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish(exchange, key, json.dumps(document).encode())
