"""`cim-worker topology` on a virtual host of its own."""

from __future__ import annotations

import re
import socket
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika

from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.services.services import Broker


def is_alone(broker: Broker) -> bool:
    return len(broker.management.request("GET", "/nodes")) == 1


def test_an_empty_virtual_host_fails_the_check_and_says_what_to_do(vhost_url: str) -> None:
    finished = cim_worker("topology", "check", CIM_RABBITMQ_URL=vhost_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "cim.ingress" in finished.stdout
    assert "cim-worker topology apply" in finished.stdout


def test_after_apply_everything_is_there_and_apply_may_be_repeated(vhost_url: str) -> None:
    first = cim_worker("topology", "apply", "--json", CIM_RABBITMQ_URL=vhost_url)
    second = cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url)
    check = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=vhost_url)

    assert (first.returncode, second.returncode, check.returncode) == (ExitCode.OK, ExitCode.OK, ExitCode.OK)
    assert printed_json(first)["problems"] == 0
    names = {finding["name"] for finding in printed_json(check)["findings"]}
    assert names >= {"cim.ingress", "cim.conversations", "cim.dead-letters", "cim.ingress.retry.10m"}


def test_with_several_addresses_the_queues_are_made_on_those_that_answer(broker: Broker, vhost_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = f"amqp://guest:guest@127.0.0.1:{gone.getsockname()[1]}/{urlsplit(vhost_url).path[1:]}"
    addresses = {
        "CIM_RABBITMQ_URL": f"{vhost_url},{nobody},{vhost_url}",
        "CIM_RABBITMQ_MANAGEMENT_URL": broker.management.url,
    }

    applied = cim_worker("topology", "apply", "--json", **addresses)
    moved = cim_worker("topology", "apply", "--rebalance", **addresses)

    assert applied.returncode == ExitCode.OK, applied.stderr
    assert printed_json(applied)["findings"][-1]["kind"] == "leaders"
    assert moved.returncode == ExitCode.OK, moved.stderr
    (leaders,) = [line for line in moved.stdout.splitlines() if line.startswith("leaders")]
    assert " leads " in leaders
    assert ("nothing to move" in leaders) == is_alone(broker), "of several nodes the first one led all"


def test_leaders_are_moved_through_the_management_api_only(vhost_url: str) -> None:
    finished = cim_worker("topology", "apply", "--rebalance", CIM_RABBITMQ_URL=vhost_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "--rebalance needs CIM_RABBITMQ_MANAGEMENT_URL" in finished.stderr


def test_a_queue_with_other_arguments_is_named_with_the_difference_and_left_alone(vhost_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_declare("cim.ingress", durable=True)

    applied = cim_worker("topology", "apply", "--json", CIM_RABBITMQ_URL=vhost_url)
    checked = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=vhost_url)

    assert (applied.returncode, checked.returncode) == (ExitCode.CONFIGURATION, ExitCode.CONFIGURATION)
    problems = [finding for finding in printed_json(applied)["findings"] if finding["problem"]]
    assert [finding["name"] for finding in problems] == ["cim.ingress"]
    assert problems[0]["problem"] == "is classic, must be quorum: its messages are on one node only"
    assert "cim.ingress" in problems[0]["fix"]


def test_a_refused_password_is_a_matter_of_configuration_and_is_not_repeated(vhost_url: str) -> None:
    url = vhost_url.replace("guest:guest", "guest:hunter2")

    finished = cim_worker("topology", "check", CIM_RABBITMQ_URL=url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "hunter2" not in finished.stdout + finished.stderr
    assert "CIM_RABBITMQ_URL" in finished.stderr


def test_a_check_needs_no_rights_and_says_what_it_could_not_see(
    url_with_rights: Callable[..., str], vhost_url: str
) -> None:
    url = url_with_rights(configure="^$", write="^$", read="^cim.ingress$")
    assert cim_worker("topology", "check", CIM_RABBITMQ_URL=url).returncode == ExitCode.CONFIGURATION
    cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url)

    finished = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=url)

    assert finished.returncode == ExitCode.OK
    rows = {(row["kind"], row["name"]): row for row in printed_json(finished)["findings"]}
    assert "not compared" in rows["queue", "cim.ingress"]["unchecked"]
    assert "CIM_RABBITMQ_MANAGEMENT_URL" in rows["binding", "cim.ingress → cim.ingress"]["unchecked"]
    assert "CIM_RABBITMQ_MANAGEMENT_URL" in rows["policies", "all"]["unchecked"]


def test_the_example_in_the_help_gives_what_it_says(vhost_url: str) -> None:
    example = re.search(r"jq '(.*)'", cim_worker("topology", "check", "--help").stdout)
    assert example
    assert example[1] == ".findings[] | select(.problem)"
    finished = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=vhost_url)
    report = printed_json(finished)
    assert [one["name"] for one in report["findings"] if one["problem"]]
    assert report["problems"] == sum(one["problem"] is not None for one in report["findings"])


def test_with_the_management_api_bindings_and_policies_are_seen(broker: Broker, vhost_url: str) -> None:
    vhost, name = urlsplit(vhost_url).path[1:], f"watcher-{uuid.uuid4().hex[:8]}"
    broker.management.create_user(name, "hunter2", "monitoring")
    broker.management.set_permissions(name, vhost, configure="^$", write="^$", read="^$")
    places = {
        "CIM_RABBITMQ_URL": vhost_url.replace("guest:guest", f"{name}:hunter2"),
        "CIM_RABBITMQ_MANAGEMENT_URL": broker.management.url.replace("guest:guest", f"{name}:hunter2"),
    }
    cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url)
    fine = cim_worker("topology", "check", "--json", **places)
    assert fine.returncode == ExitCode.OK, fine.stdout
    unchecked = [row["kind"] for row in printed_json(fine)["findings"] if row["unchecked"]]
    assert unchecked == ([] if is_alone(broker) else ["leaders"]), "of several nodes the one that was asked leads all"

    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_unbind("cim.ingress", "cim.ingress", "#")
    broker.management.set_policy(
        vhost, "catch-all", "^cim.conversations$", {"alternate-exchange": "amq.fanout"}, "exchanges"
    )
    harmed = cim_worker("topology", "check", "--json", **places)

    assert harmed.returncode == ExitCode.CONFIGURATION
    found = {row["name"]: row for row in printed_json(harmed)["findings"] if row["problem"]}
    assert set(found) == {"cim.ingress → cim.ingress", "catch-all on exchange cim.conversations"}
    assert all(row["fix"] for row in found.values())
    broker.management.request("DELETE", f"/users/{name}")
    refused = cim_worker("topology", "check", **places | {"CIM_RABBITMQ_URL": vhost_url})
    assert refused.returncode == ExitCode.CONFIGURATION
    for finished in (fine, harmed, refused):
        assert_silent_about("hunter2", finished)


def assert_silent_about(secret: str, finished: subprocess.CompletedProcess[str]) -> None:
    assert secret not in finished.stdout + finished.stderr


def test_a_limit_that_cannot_be_changed_is_changed_with_its_messages_when_that_is_wanted(
    vhost_url: str, broker: Broker
) -> None:
    addresses = {"CIM_RABBITMQ_URL": vhost_url, "CIM_RABBITMQ_MANAGEMENT_URL": broker.management.url}
    assert cim_worker("topology", "apply", **addresses).returncode == ExitCode.OK
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().basic_publish("cim.ingress", "c-1", b"{}")
    other = {**addresses, "CIM_DELIVERY_LIMIT": "50"}

    asked = cim_worker("topology", "apply", "--migrate", **other)
    without_management = cim_worker(
        "topology", "apply", "--migrate", "--yes", CIM_RABBITMQ_URL=vhost_url, CIM_DELIVERY_LIMIT="50"
    )
    done = cim_worker("topology", "apply", "--migrate", "--yes", **other)

    assert asked.returncode == without_management.returncode == ExitCode.CONFIGURATION
    assert "x-delivery-limit is 20, must be 50" in asked.stdout
    assert "cim.ingress\tx-delivery-limit is 20, must be 50\t1\n" in asked.stdout, "how many messages it holds"
    assert "apply --migrate" in asked.stdout
    assert "nothing was changed: --yes" in asked.stderr
    assert "policymaker" in without_management.stderr
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert cim_worker("topology", "check", **other).returncode == ExitCode.OK
    assert broker.management.request("GET", f"/policies/{urlsplit(vhost_url).path[1:]}") == []
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        assert connection.channel().basic_get("cim.ingress")[2] == b"{}"
