"""Whatever is killed, a request that was answered 200 is in the store or at a subscriber: the short form."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.chaos.gateway import run
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Store


@pytest.mark.slow
def test_what_was_answered_200_survives_the_end_of_gateway_broker_and_workers(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    world = World(breakable_broker.create_vhost(f"gateway-{uuid.uuid4().hex}"), store.uri, database, tmp_path)
    world.apply_topology()
    chosen = iter(["gateway killed", "worker killed", "broker killed", "gateway stopped"])

    found = run(world, breakable_broker, chosen, seconds=0, pause=0.5, seed=1)

    assert len(found.faults) == 4
    assert not found.missing
    assert found.letters == 0
