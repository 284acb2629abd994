"""deploy/rabbitmq on a real broker: its definitions are the topology, and its users have the documented rights."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

from tests.documentation import ROOT, rights
from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Broker

FOLDER = ROOT / "deploy" / "rabbitmq"
USERS: list[dict[str, str]] = json.loads((FOLDER / "users.json").read_text())


def test_the_definitions_are_those_of_the_topology() -> None:
    exported = cim_worker("topology", "export").stdout

    assert exported == (FOLDER / "definitions.json").read_text(), "cim-worker topology export > definitions.json"


def test_imported_definitions_are_the_topology_and_nothing_more(broker: Broker, vhost_url: str) -> None:
    vhost, version = urlsplit(vhost_url).path[1:], broker.management.version()
    exported = printed_json(cim_worker("topology", "export", "--vhost", vhost, "--broker-version", version))

    broker.management.request("POST", f"/definitions/{quote(vhost)}", exported)

    addresses = {"CIM_RABBITMQ_URL": vhost_url, "CIM_RABBITMQ_MANAGEMENT_URL": broker.management.url}
    checked = cim_worker("topology", "check", **addresses)
    assert checked.returncode == ExitCode.OK, checked.stdout
    found = broker.management.request("GET", f"/definitions/{quote(vhost)}")
    for kind in ("exchanges", "queues", "bindings", "policies"):
        assert names(found[kind]) == names(exported[kind])


def test_from_4_3_on_a_policy_lets_queues_give_what_a_dead_node_had_to_others_at_once() -> None:
    older, newer = (
        printed_json(cim_worker("topology", "export", "--broker-version", version))["policies"]
        for version in ("4.2", "4.3")
    )
    assert older == [], "it would be refused"
    assert [policy["definition"] for policy in newer] == [{"consumer-disconnected-timeout": 2000}]


def test_a_version_of_one_number_is_the_first_of_its_series() -> None:
    """From 4.0 on a queue without a limit of its own drops a letter at its 21st return."""
    one, two = (
        printed_json(cim_worker("topology", "export", "--broker-version", version))["queues"]
        for version in ("4", "4.0")
    )
    assert one == two
    limits = {queue["name"]: queue["arguments"].get("x-delivery-limit") for queue in one}
    assert limits["cim.dead-letters"] == limits["cim.dead-letters.parked"] == -1


def names(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((row.get("name") or row["source"], row.get("destination", "")) for row in rows)


def test_a_version_that_is_none_is_refused() -> None:
    finished = cim_worker("topology", "export", "--broker-version", "newest")
    nowhere = cim_worker("topology", "export", "--vhost", "")

    assert finished.returncode == nowhere.returncode == ExitCode.CONFIGURATION
    assert "3.13" in finished.stderr
    assert "--vhost" in nowhere.stderr


def test_a_user_is_named_once() -> None:
    assert len({user["name"] for user in USERS}) == len(USERS) == len({user["row"] for user in USERS})


@pytest.mark.parametrize("user", USERS, ids=lambda user: str(user["name"]))
def test_each_user_has_the_rights_of_the_operators_page(user: dict[str, str]) -> None:
    """The page's rights are tried with the commands and snippets they are meant for: test_permissions, test_readme."""
    assert rights(user["row"]) == {right: user[right] for right in ("configure", "write", "read")}


def test_users_are_made_with_their_rights_and_may_be_made_again(breakable_broker: LocalBroker, tmp_path: Path) -> None:
    """On a node of our own: a broker that was given may have users of these names."""
    url, management = breakable_broker.create_vhost("users"), breakable_broker.management
    passwords = tmp_path / "passwords"
    passwords.mkdir()
    for name in ("cim-topology", "cim-worker", "cim-monitoring", "recorder", "dashboard"):
        (passwords / name).write_text(f"secret of {name}\n")

    for _ in range(2):
        finished = subprocess.run(
            [
                *(sys.executable, FOLDER / "users.py", "--management", management.url),
                *("--vhost", "users", "--passwords", passwords, "--publisher", "recorder", "--subscriber", "dashboard"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
    assert "cim-platform: no file" in finished.stderr
    assert "secret of" not in finished.stdout + finished.stderr

    given = {one["user"]: one for one in management.request("GET", "/vhosts/users/permissions")}
    assert given["cim-worker"]["write"] == rights("worker")["write"]
    assert given["recorder"]["write"] == rights("publisher")["write"]
    assert given["dashboard"]["read"] == r"^(dashboard|conversation)\..*$"
    assert management.request("GET", "/users/cim-monitoring")["tags"] in (["monitoring"], "monitoring")
    login = f"cim-topology:{quote('secret of cim-topology')}@127.0.0.1:{breakable_broker.amqp_port}"
    as_topology = urlsplit(url)._replace(netloc=login).geturl()
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=as_topology).returncode == ExitCode.OK
    monitoring = rights("monitoring (`CIM_RABBITMQ_MANAGEMENT_URL`, autoscaler)")
    assert {right: given["cim-monitoring"][right] for right in monitoring} == monitoring
    as_monitoring = management.url.replace("guest:guest", f"cim-monitoring:{quote('secret of cim-monitoring')}")
    checked = printed_json(
        cim_worker(
            "topology", "check", "--json", CIM_RABBITMQ_URL=as_topology, CIM_RABBITMQ_MANAGEMENT_URL=as_monitoring
        )
    )
    assert [row for row in checked["findings"] if row["problem"] or row["unchecked"]] == []
