"""The nodes share the work: leaders are spread when queues are made, seen when they are not, and moved on request."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.command import cim_worker, printed_json
from tests.support.eventually import eventually
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from tests.services.cluster import LocalCluster

_QUORUM_QUEUES = 9


def leaders_row(*arguments: str, **addresses: str) -> dict[str, Any]:
    finished = cim_worker("topology", *arguments, "--json", **addresses)
    assert finished.returncode == ExitCode.OK, finished.stdout + finished.stderr
    (found,) = [one for one in printed_json(finished)["findings"] if one["kind"] == "leaders"]
    return found  # type: ignore[no-any-return]


def by_node(cluster: LocalCluster, vhost: str) -> list[int]:
    found = eventually(lambda: leaders if len(leaders := cluster.leaders(vhost)) == _QUORUM_QUEUES else {})
    return sorted(Counter(found.values()).values())


def test_queues_are_made_on_each_node_in_turn_so_that_each_leads_its_share(cluster: LocalCluster, vhost: str) -> None:
    urls = cluster.urls(cluster.nodes, vhost)
    found = leaders_row("apply", CIM_RABBITMQ_URL=urls)
    assert found["unchecked"] == "not checked: over AMQP they cannot be seen"
    assert by_node(cluster, vhost) == [2, 3, 4]
    management = cluster.nodes[0].management_url
    found = leaders_row("check", CIM_RABBITMQ_URL=urls, CIM_RABBITMQ_MANAGEMENT_URL=management)
    assert found["unchecked"] is None


def test_a_node_that_does_not_answer_leaves_its_share_to_the_others(cluster: LocalCluster, vhost: str) -> None:
    urls = cluster.urls(cluster.nodes, vhost)
    cluster.nodes[2].kill()
    leaders_row("apply", CIM_RABBITMQ_URL=urls)
    assert by_node(cluster, vhost) == [4, 5]


def test_leaders_on_one_node_are_named_and_moved_on_request(cluster: LocalCluster, vhost: str) -> None:
    addresses = {
        "CIM_RABBITMQ_URL": cluster.nodes[0].vhost_url(vhost),
        "CIM_RABBITMQ_MANAGEMENT_URL": cluster.nodes[1].management_url,
    }
    found = leaders_row("apply", **addresses)
    assert f"{cluster.nodes[0].node_name} leads {_QUORUM_QUEUES}" in found["unchecked"]
    assert "--rebalance" in found["fix"]
    assert leaders_row("check", **addresses) == found, "and it is no reason for another exit code"
    found = leaders_row("apply", "--rebalance", **addresses)
    assert found["unchecked"].startswith("ok: ")
    assert max(by_node(cluster, vhost)) <= 5
