"""The demo itself, small."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pymongo

from tests.support.command import COMMAND, cim_worker, printed_json, running, wait_until
from worker.cli.exit_codes import ExitCode
from worker.codes import Code

if TYPE_CHECKING:
    from tests.services.services import Store


def demo_databases(store: Store) -> set[str]:
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(store.uri)
    with client:
        return {name for name in client.list_database_names() if name.startswith("cim-demo-")}


def test_the_demo_accounts_for_every_message(vhost_url: str, store: Store) -> None:
    before = demo_databases(store)

    finished = cim_worker("demo", "--messages", "300", "--json", CIM_RABBITMQ_URL=vhost_url, CIM_MONGODB_URI=store.uri)

    assert finished.returncode == ExitCode.OK, finished.stdout + finished.stderr
    report = printed_json(finished)
    found = {line["outcome"]: line["found"] for line in report["lines"]}
    assert report["adds_up"] is True
    assert found["sent"] == 300
    assert found["published"] + found["stored"] + found["duplicate"] + found["dead"] == 300
    assert all(found[outcome] > 0 for outcome in ("published", "stored", "duplicate", "dead"))
    assert report["sample_event"]["body"]["name"] == "THIRD_PARTY_ACTIVITY"
    assert report["sample_document"]["activity"]["name"] == "THIRD_PARTY_ACTIVITY"
    assert demo_databases(store) <= before


def test_the_report_says_what_came_what_died_and_why_and_what_to_try_next(vhost_url: str, store: Store) -> None:
    finished = cim_worker("demo", "--messages", "300", CIM_RABBITMQ_URL=vhost_url, CIM_MONGODB_URI=store.uri)

    assert finished.returncode == ExitCode.OK, finished.stdout + finished.stderr
    assert "What came: 300 activities" in finished.stdout
    died = re.findall(
        r"^(\w+)\t\d+\t(.+)$", finished.stdout.partition("What died")[2].partition("The account")[0], re.MULTILINE
    )
    assert len(died) > 5
    assert [(code, why) for code, why in died if why != Code(code).spec.meaning] == []
    assert "Every message is accounted for." in finished.stdout
    assert len(re.findall(r"cim-worker ", finished.stdout.partition("Try next")[2])) == 3
    assert '":' not in finished.stdout.partition("Try next")[0], "no JSON"
    assert finished.stdout.count("\n") < 90


def test_a_demo_that_is_kept_can_be_used_as_it_says_and_leaves_nothing_behind_when_it_is_stopped(
    vhost_url: str, store: Store, tmp_path: Path
) -> None:
    before, log = demo_databases(store), tmp_path / "demo.log"
    places = {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri}

    with running(COMMAND, "demo", "--messages", "100", "--keep", log=log, **places) as demo:
        wait_until(lambda: "Stop it with Ctrl-C" in log.read_text() or demo.poll() is not None, seconds=60)
        said = log.read_text()
        variables, *commands, stop = re.findall(r"^  (.*)$|another shell with: (.*)$", said, re.MULTILINE)[-6:]
        script = "\n".join(["set -e -o pipefail", variables[0], *(command for command, _ in commands)])
        tried = subprocess.run(["bash", "-c", script], capture_output=True, check=False, env={"PATH": os.defpath})

        assert tried.returncode == 0, tried.stderr.decode() + said
        assert b"demo-live-1" in tried.stdout
        wait_until(lambda: re.search(r"subscriber of demo-live-1 received event \w{24}\n", log.read_text()))
        wait_until(lambda: re.search(r"dead letter: missing_sender_type: .* \(message try-2\)", log.read_text()))
        assert subprocess.run(["bash", "-c", stop[1]], check=False).returncode == 0
        assert demo.wait(30) == ExitCode.OK, log.read_text()
    assert demo_databases(store) <= before
    assert not Path(variables[0].removeprefix(". ")).parent.exists()


def test_a_demo_that_is_stopped_half_way_takes_its_database_with_it(
    vhost_url: str, store: Store, tmp_path: Path
) -> None:
    before = demo_databases(store)
    log = tmp_path / "demo.log"
    places = {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri}

    with running(COMMAND, "demo", "--messages", "100000", log=log, **places) as demo:
        wait_until(lambda: demo_databases(store) - before)
        demo.send_signal(signal.SIGTERM)

        assert demo.wait(30) == 128 + signal.SIGINT, log.read_text()
    assert demo_databases(store) <= before
