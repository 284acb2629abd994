"""The demo itself, small."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pymongo

from tests.support.command import COMMAND, cim_worker, printed_json, running, wait_until
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

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
