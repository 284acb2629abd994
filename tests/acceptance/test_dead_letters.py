"""The developer on call: find out why letters died, fix them, replay them; with the real commands, broker and store."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command import COMMAND, cim_worker, environment, printed_json
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

CHARACTERS = 2000
REASON = ("--reason", "the limit was too small")


def message(message_id: str, **header: Any) -> dict[str, Any]:
    return {
        "id": message_id,
        "header": {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}, **header},
        "body": {"type": "PLAIN", "markdownText": "hello"},
    }


def encoded(*messages: dict[str, Any]) -> list[bytes]:
    return [json.dumps(one).encode() for one in messages]


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


class OnCall:
    """Runs commands as somebody would who was called at night."""

    def __init__(self, world: World, **variables: str) -> None:
        self.variables = {
            "CIM_RABBITMQ_URL": world.amqp_url,
            "CIM_MONGODB_URI": world.mongodb_uri,
            "CIM_MONGODB_DATABASE": world.database,
            **variables,
        }

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = cim_worker("dead-letters", *arguments, stdin=stdin, **self.variables)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return printed_json(self.run(*arguments, "--json", code=code))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in the background."""
        return subprocess.Popen(
            [COMMAND, "dead-letters", *arguments],
            env=environment(**self.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def statuses(self) -> dict[str, int]:
        found: dict[str, int] = self.json("groups")["statuses"]
        return found


def recording(world: World, **variables: str) -> Any:
    return world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="200", **variables)


def test_a_letter_is_found_understood_fixed_and_replayed(world: World) -> None:
    misspelt = message("m-1")
    misspelt["header"]["customer"] = {"id": "customer-1"}
    on_call = OnCall(world)
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(*encoded(misspelt), b"no json")
        eventually(lambda: on_call.statuses().get("open") == 2)

        causes = {one["code"]: one for one in on_call.json()["causes"]}
        cause = causes["missing_anchor"]["handle"]
        assert causes["missing_anchor"]["is_new"]
        told = on_call.run("show", cause).stdout
        assert "header.customer.id" in told
        assert "hello" not in told
        assert "still_fails" in on_call.json("plan", cause)["predictions"]

        rename = ("--rename", "header.customer.id=header.customer._id")
        assert on_call.json("plan", cause, *rename)["storedBecause"] == {"stand_alone": 1}
        preview = on_call.run("fix", cause, *rename).stdout
        assert "1 would change, 1 of them would not die again" in preview
        on_call.run("fix", cause, *rename, "--apply", "--yes", "--reason", "publisher's typing error")
        done = on_call.json("replay", cause, "--yes", "--reason", "fixed")

    assert done["outcomes"] == {"settled": 1}
    assert world.stored("m-1") is not None
    assert on_call.statuses() == {"open": 1, "settled": 1}
