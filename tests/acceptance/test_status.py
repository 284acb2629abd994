"""`cim-worker status`: what there is to see, whoever looks and whatever is away."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.amqp import plain
from tests.support.command import COMMAND, cim_worker, environment, printed_json
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.services import Broker, Store


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": "hello"}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def seen(world: World, *options: str, code: int = 0, **variables: str) -> dict[str, Any]:
    finished = cim_worker("status", "--json", *options, **_settings(world, **variables))
    assert finished.returncode == code, finished.stderr
    report: dict[str, Any] = printed_json(finished)
    return report


def of_the_rest(report: dict[str, Any]) -> list[str]:
    """Return what needs attention but for pools, whose own reports are seconds old."""
    return [line for line in report["attention"] if not line.startswith("pool ")]


def _settings(world: World, **variables: str) -> dict[str, str]:
    return {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_MONGODB_TIMEOUT_MS": "2000",
        "CIM_RETRY_DELAYS": "1s",
        **variables,
    }


def test_lag_outcomes_letters_and_dependencies_are_seen(
    world: World, broker: Broker, url_of: Callable[[str], str]
) -> None:
    on_call = url_of("on call (`explain`, `status`)")
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="100") as pool:
        pool.wait_for("consuming")
        world.publish(*(message(str(number), customer={"_id": "u-1"}) for number in range(3)), message("invalid"))
        eventually(lambda: len(world.stored_ids()) == 3 and world.collection("dead_letters"))
        report = eventually(
            lambda: found if (found := seen(world, CIM_RABBITMQ_URL=on_call))["outcomes"]["total"] == 4 else {}
        )
        assert report["lag"] == 0
        assert report["queues"]["cim.ingress"]["consumers"] == 1
        assert not report["lagHasUnacknowledged"]
        kinds = {(one["outcome"], one["reason"], one["code"]): one["count"] for one in report["outcomes"]["kinds"]}
        assert kinds == {("stored", "stand_alone", None): 3, ("dead", None, "missing_anchor"): 1}
        assert report["outcomes"]["p95Ms"] >= report["outcomes"]["p50Ms"]
        assert (report["letters"]["open"], report["letters"]["causes"], report["letters"]["new"]) == (1, 1, 1)
        assert [one["is_up"] for one in report["dependencies"]] == [True, True, True]
        assert not of_the_rest(report)
        pool.signal()
        assert pool.wait() == 0
    world.publish(message("waits", customer={"_id": "u-1"}))
    management = broker.management.url
    report = eventually(
        lambda: found if (found := seen(world, CIM_RABBITMQ_MANAGEMENT_URL=management))["lag"] == 1 else {}
    )
    assert report["lagHasUnacknowledged"]
    assert of_the_rest(report) == ["1 messages wait in cim.ingress, and no worker consumes it"]
    lines = cim_worker("status", **_settings(world)).stdout.splitlines()
    assert "dead letters, last 5 min\t1 open of 1 cause" in "\n".join(lines)
    assert lines[-1].startswith("! ")


def test_what_is_away_is_said_and_the_rest_is_shown(world: World) -> None:
    without_store = seen(world, CIM_MONGODB_URI="mongodb://127.0.0.1:9/", code=4)
    assert without_store["lag"] == 0
    assert without_store["letters"] is None
    assert without_store["attention"][0].startswith("store: it does not answer")
    without_broker = seen(world, CIM_RABBITMQ_URL="amqp://127.0.0.1:9/", code=3)
    assert without_broker["lag"] is None
    assert without_broker["letters"]["open"] == 0
    with plain(world.amqp_url) as channel:
        channel.queue_delete("cim.outcomes")
        channel.queue_delete("cim.ingress.waiting")
    broken = seen(world, code=2, CIM_RABBITMQ_MANAGEMENT_URL="http://127.0.0.1:9")
    assert broken["lag"] == 0
    assert [one["name"] for one in broken["dependencies"] if not one["is_up"]] == ["management API", "journal"]
    assert any("missing on the broker: cim.ingress.waiting" in line for line in broken["attention"])
    refused = cim_worker("status", "--since", "soon")
    assert (refused.returncode, "--since" in refused.stderr) == (2, True)


def test_it_is_watched_as_lines_of_json_that_count_each_outcome_once(world: World) -> None:
    command = [COMMAND, "status", "--watch", "--interval", "0.2", "--json"]
    variables = environment(**_settings(world))
    with world.pool() as pool, subprocess.Popen(command, stdout=subprocess.PIPE, env=variables) as watching:
        try:
            assert watching.stdout is not None
            first = json.loads(watching.stdout.readline())
            assert first["outcomes"] is not None
            pool.wait_for("consuming")
            world.publish(*(message(str(number), customer={"_id": "u-1"}) for number in range(5)))
            totals = [0]
            while totals[-2:] != [5, 5]:
                totals.append(json.loads(watching.stdout.readline())["outcomes"]["total"])
            assert totals == sorted(totals)
        finally:
            watching.kill()
