"""Which nodes lead our queues, as the management API tells it."""

from __future__ import annotations

from typing import Any

import pytest

from worker.rabbit.leaders import FIX, is_even, row, spread


def queue(name: str, leader: str | None = "a", kind: str = "quorum") -> dict[str, Any]:
    return {"name": name, "type": kind, **({"leader": leader} if leader else {})}


def test_only_our_quorum_queues_that_have_a_leader_count_and_a_node_without_any_is_shown() -> None:
    nodes = [{"name": "a", "running": True}, {"name": "b", "running": True}, {"name": "c", "running": False}]
    queues = [queue("cim.ingress"), queue("cim.outcomes", kind="stream"), queue("others"), queue("cim.x", leader=None)]
    assert spread(nodes, queues) == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("by_node", "even"),
    [
        ({"a": 9}, True),
        ({"a": 3, "b": 3, "c": 3}, True),
        ({"a": 4, "b": 4, "c": 1}, True),
        ({"a": 5, "b": 4, "c": 0}, False),
        ({"a": 9, "b": 0, "c": 0}, False),
        ({"a": 1, "b": 0, "c": 0}, True),
        ({}, True),
    ],
)
def test_one_queue_above_its_share_is_even(by_node: dict[str, int], *, even: bool) -> None:
    assert is_even(by_node) is even


def test_leaders_on_one_node_of_several_are_named_with_what_to_do_and_lose_nothing() -> None:
    finding = row({"a": 9, "b": 0})
    assert finding.problem is None
    assert (finding.unchecked, finding.fix) == ("a leads 9, b leads 0", FIX)
    assert row({"a": 9}).unchecked is None
