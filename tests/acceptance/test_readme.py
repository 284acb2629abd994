"""The README's own code, run as it stands against a real broker, store and worker."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.documentation import snippet
from tests.support.command import COMMAND, cim_worker, running, wait_until
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Store


def test_what_the_publisher_of_the_readme_sends_reaches_the_subscriber_of_the_readme(
    vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    places = {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}
    files = {name: tmp_path / f"{name}.py" for name in ("publish", "subscribe")}
    for name, file in files.items():
        file.write_text(snippet(name))
    heard, worker_log, published = tmp_path / "heard", tmp_path / "worker.log", tmp_path / "published"
    assert cim_worker("topology", "apply", **places).returncode == ExitCode.OK
    assert cim_worker("conversations", "open", "c-1", **places).returncode == ExitCode.OK

    with (
        running(COMMAND, "run", log=worker_log, **places),
        running(sys.executable, files["subscribe"], log=heard, **places),
    ):
        wait_until(lambda: "listening" in heard.read_text())
        with running(sys.executable, files["publish"], log=published, **places) as publisher:
            assert publisher.wait(30) == 0, published.read_text()
        wait_until(lambda: "VOICE_RECORDING RecorderApp" in heard.read_text())


def test_what_nobody_listens_to_is_in_the_store(
    vhost_url: str, store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    places = {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": documents.name}
    script, published = tmp_path / "publish.py", tmp_path / "published"
    script.write_text(snippet("publish"))
    assert cim_worker("topology", "apply", **places).returncode == ExitCode.OK

    with running(COMMAND, "run", log=tmp_path / "worker.log", **places):
        with running(sys.executable, script, log=published, **places) as publisher:
            assert publisher.wait(30) == 0, published.read_text()
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-1"}))
