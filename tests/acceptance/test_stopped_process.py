"""A process of the pool that stands still: what it had goes to the others when the broker misses its heartbeats."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

HEARTBEAT_SECONDS = 2
BOUND_SECONDS = 3 * HEARTBEAT_SECONDS
SLACK_SECONDS = 2
"""For a loaded machine: what was delivered again has still to be handled."""
COUNT = 40
BEFORE = 70
"""Lifecycle events go to one process, another one at each change of its window: after so many it changes no more."""


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def activity(message_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


@pytest.mark.alone
def test_neither_deliveries_nor_lifecycle_events_wait_longer_than_three_heartbeats_for_a_stopped_process(
    world: World,
) -> None:
    with world.pool("--processes", "2", CIM_RABBITMQ_HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS)) as pool:
        pool.wait_for("consuming", 2)
        for number in range(BEFORE):
            world.tell(f"before-{number}", "ACTIVE", 1_760_000_000_000)
            stopped = pool.wait_for("conversation", number + 1)[-1]["pid"]
        os.kill(stopped, signal.SIGSTOP)
        stopped_at = time.monotonic()

        world.publish(*(activity(f"m-{number}") for number in range(COUNT)))
        for number in range(COUNT):
            world.tell(f"c-{number}", "ACTIVE", 1_760_000_000_000)

        waits: dict[str, float] = {}

        def all_handled() -> bool:
            now = time.monotonic() - stopped_at
            if len(world.stored_ids()) == COUNT:
                waits.setdefault("deliveries", now)
            if len(world.collection("conversations")) == BEFORE + COUNT:
                waits.setdefault("lifecycle events", now)
            return len(waits) == 2

        eventually(all_handled, "what the stopped process had, handled by the other", 5 * BOUND_SECONDS)
        os.kill(stopped, signal.SIGCONT)
        assert HEARTBEAT_SECONDS < waits["deliveries"] < BOUND_SECONDS + SLACK_SECONDS, waits
        assert HEARTBEAT_SECONDS < waits["lifecycle events"] < waits["deliveries"] + SLACK_SECONDS, waits
        pool.wait_for("consuming", 3)
        pool.signal()
        assert pool.wait() == 0
        assert sum(line["received"] for line in pool.lines("worker_stopped")) >= COUNT
