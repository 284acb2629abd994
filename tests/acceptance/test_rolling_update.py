"""Three pools replaced one after the other under load, as a rolling update does: nothing is lost or repeated."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.steady_load import SteadyLoad
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

POOLS = 3


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


@pytest.mark.slow
def test_a_rolling_update_of_three_pools_loses_nothing_and_repeats_nothing(world: World) -> None:
    """A clean stop settles what it holds before it ends; only what it has to hand back could come twice."""
    with ExitStack() as stack:
        old = [stack.enter_context(world.pool()) for _ in range(POOLS)]
        for pool in old:
            pool.wait_for("consuming")
        desk = world.open("c-1")
        with SteadyLoad(world.amqp_url, "c-1") as load:
            for outgoing in old:
                incoming = stack.enter_context(world.pool())
                incoming.wait_for("consuming")
                outgoing.signal()
                assert outgoing.wait() == 0

        events: list[str] = []
        letters: list[str] = []

        def all_there() -> bool:
            events.extend(json.loads(body)["data"]["id"] for *_, body in world.received(desk))
            letters.extend(one.message_id for _, one, _ in world.received("cim.dead-letters"))
            stored = world.stored_ids()
            return (
                set(load.live) <= set(events) | stored
                and set(load.stored) <= stored
                and len(letters) >= len(load.invalid)
            )

        eventually(all_there, "every message")

    activities = Counter(one["messageId"] for one in world.collection("ConversationActivities"))
    assert max(activities.values()) == 1
    assert set(activities) == set(load.stored)
    assert Counter(events) == Counter(load.live)
    assert sorted(letters) == sorted(load.invalid)
    assert (world.depth("cim.ingress"), world.depth("cim.ingress.waiting")) == (0, 0)
