"""A pool whose store is there and fails: nothing is dead-lettered for it, and all is stored when it is well again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wire_proxy as wire
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Store


@pytest.fixture
def proxy(store: Store) -> Iterator[wire.WireProxy]:
    with wire.wire_proxy(store.uri) as made:
        yield made


@pytest.fixture
def world(vhost_url: str, proxy: wire.WireProxy, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, proxy.uri, database, tmp_path)
    made.apply_topology()
    return made


def message(message_id: str, text: str = "hello", **header: Any) -> bytes:
    return json.dumps(
        {
            "id": message_id,
            "header": {"sender": {"id": "app-1", "type": "APP"}, **header},
            "body": {"type": "PLAIN", "markdownText": text},
        }
    ).encode()


@pytest.mark.parametrize("number", [13, 85, 86])
def test_an_index_the_store_refuses_neither_delays_nor_stops_the_work(
    world: World, proxy: wire.WireProxy, number: int
) -> None:
    refusing = proxy.on("createIndexes", answer=wire.error(number, "SomeConflict"))
    with world.pool() as pool:
        eventually(lambda: pool.ready()[0], "ready", seconds=15)
        queue = world.open("c-1", roomInfo={"id": "room-1"})
        world.publish(message("m-1", conversationId="c-1"), message("m-2", customer={"_id": "u-1"}))
        eventually(lambda: len(world.stored_ids()) == 1, "the other stored")
        [(_, _, event)] = eventually(lambda: world.received(queue), "the event")
        refused = pool.wait_for("store_index_refused", refusing.count)

        assert json.loads(event)["roomInfo"]["id"] == "room-1"
        assert len({line["index"] for line in refused}) == len(refused) == refusing.count
        assert pool.lines("dependency_down") == []
        assert pool.ready() == (True, [])
