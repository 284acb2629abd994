"""A store of several members: the primary steps down, another one is elected; nothing is lost and nobody is blamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.replica_set import replica_set
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store


def message(message_id: str, **anchor: object) -> bytes:
    sender = {"id": "app-1", "type": "APP", "senderName": "App"}
    header = {"sender": sender, "timestamp": 1_760_000_000_000, **anchor}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN", "markdownText": ""}}).encode()


def kept(*numbers: int) -> list[bytes]:
    return [message(f"kept-{number}", customer={"_id": "customer-1"}) for number in numbers]


def test_a_primary_that_steps_down_costs_no_attempt_and_no_live_event(
    vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    with replica_set(store.uri) as members:
        world = World(vhost_url, store.uri, database, tmp_path)
        world.apply_topology()
        with world.pool(CIM_MONGODB_URI=members.uri) as pool:
            desk = world.open("live")
            world.publish(*kept(*range(10)))
            eventually(lambda: len(world.stored_ids()) == 10, "stored by the first primary")

            members.step_down()
            world.publish(*kept(*range(10, 60)), message("live-1", conversationId="live"))
            eventually(lambda: world.depth(desk) == 1, "live events need no primary")
            (down,) = pool.wait_for("dependency_down")
            assert (down["dependency"], down["code"]) == ("store", "store_unavailable")

            second = members.elect()
            before = second.seen["insert"]
            eventually(lambda: len(world.stored_ids()) == 60, "all stored by the new primary")
            pool.wait_for("dependency_up")
            assert second.seen["insert"] > before
            assert pool.lines("dead_letter") == []
            assert {line["attempt"] for line in pool.lines("retry")} <= {1}
            assert len(pool.lines("dependency_down")) == len(pool.lines("dependency_up")) == 1
            eventually(lambda: pool.ready()[0])


def test_one_of_several_addresses_that_answers_is_enough(
    vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    with replica_set(store.uri) as members:
        first, _ = members.members
        first.stop_listening()
        members.step_down()
        members.elect()
        world = World(vhost_url, store.uri, database, tmp_path)
        world.apply_topology()
        with world.pool(CIM_MONGODB_URI=members.uri):
            world.publish(*kept(1))
            eventually(lambda: world.stored("kept-1"))
