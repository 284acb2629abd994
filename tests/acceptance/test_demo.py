"""The demo itself, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from worker.sandbox.services import Store


def test_the_demo_accounts_for_every_message(vhost_url: str, store: Store) -> None:
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
