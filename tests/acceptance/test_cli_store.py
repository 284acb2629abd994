"""`cim-worker store` on a database of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pymongo
import pytest

from tests.services.processes import free_ports
from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from tests.services.services import Store


@pytest.fixture
def settings(store: Store, database: str) -> dict[str, str]:
    return {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}


def test_missing_indexes_fail_the_check_with_the_fix(settings: dict[str, str]) -> None:
    finished = cim_worker("store", "check", **settings)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "conversationId + timestamp" in finished.stdout
    assert "cim-worker store apply" in finished.stdout


def test_without_a_terminal_apply_shows_what_it_would_do_and_does_nothing(settings: dict[str, str]) -> None:
    previewed = cim_worker("store", "apply", "--json", **settings)

    assert previewed.returncode == ExitCode.CONFIGURATION
    assert {one["state"] for one in printed_json(previewed)["indexes"]} == {"missing"}
    assert cim_worker("store", "check", **settings).returncode == ExitCode.CONFIGURATION


def test_apply_says_what_it_made_and_may_be_repeated(settings: dict[str, str]) -> None:
    first = cim_worker("store", "apply", "--yes", "--json", **settings)
    second = cim_worker("store", "apply", "--json", **settings)
    check = cim_worker("store", "check", "--json", **settings)

    assert (first.returncode, second.returncode, check.returncode) == (ExitCode.OK, ExitCode.OK, ExitCode.OK)
    assert {one["state"] for one in printed_json(first)["indexes"]} == {"created"}
    assert {one["state"] for one in printed_json(second)["indexes"]} == {"ok"}
    assert printed_json(check)["problems"] == 0


def test_an_existing_index_of_another_name_is_kept_and_counts(settings: dict[str, str]) -> None:
    with pymongo.MongoClient[dict[str, object]](settings["CIM_MONGODB_URI"]) as client:
        activities = client[settings["CIM_MONGODB_DATABASE"]]["ConversationActivities"]
        activities.insert_one({"conversationId": "c-1"})
        activities.create_index([("conversationId", 1), ("timestamp", -1)], name="theirs")

        applied = cim_worker("store", "apply", "--yes", "--json", **settings)

        states = {tuple(one["fields"]): one["state"] for one in printed_json(applied)["indexes"]}
        assert states["conversationId", "timestamp"] == "ok"
        assert states["customerId", "timestamp"] == "created"
        assert printed_json(applied)["indexes"][-1]["documents"] == 1
        fields = [[name for name, _ in index["key"]] for index in activities.index_information().values()]
        assert fields.count(["conversationId", "timestamp"]) == 1


def test_a_store_that_is_not_there_is_one_sentence(settings: dict[str, str]) -> None:
    finished = cim_worker(
        "store", "check", **(settings | {"CIM_MONGODB_URI": f"mongodb://127.0.0.1:{free_ports(1)[0]}/"})
    )

    assert finished.returncode == ExitCode.STORE_UNREACHABLE
    assert len(finished.stderr.splitlines()) == 1
