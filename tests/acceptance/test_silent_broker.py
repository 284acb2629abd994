"""A broker that stands still with its connections open: nothing but the lack of progress shows it."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any

from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.process.signals import STUCK_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Store

GRACE_SECONDS = 1.0
NUMBERS = [str(number) for number in range(100)]
FROZEN_SECONDS = 8.0


def message(message_id: str) -> bytes:
    sender = {"id": "app-1", "type": "APP", "senderName": "App"}
    header = {"sender": sender, "timestamp": 1_760_000_000_000, "conversationId": "live"}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN", "markdownText": ""}}).encode()


def of_the_broker(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["dependency"] == "broker"]


def test_a_frozen_broker_is_reported_within_seconds_and_the_session_goes_on_when_it_thaws(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    vhost = f"frozen-{uuid.uuid4().hex}"
    world = World(breakable_broker.create_vhost(vhost), store.uri, database, tmp_path)
    world.apply_topology()
    with world.pool() as pool:
        desk = world.open("live")
        eventually(lambda: pool.ready()[0])
        (worker,) = pool.workers()
        os.kill(worker, signal.SIGSTOP)  # so that it finds the messages with the broker frozen already
        world.publish(*map(message, NUMBERS))
        eventually(lambda: world.depth("cim.ingress") < len(NUMBERS), "some on their way to the worker")
        breakable_broker.freeze()
        os.kill(worker, signal.SIGCONT)
        frozen_at = time.monotonic()
        try:
            (down,) = eventually(lambda: of_the_broker(pool.lines("dependency_down")), seconds=FROZEN_SECONDS)
            assert down["code"] == "broker_unavailable"
            assert down["reason"] == "connected, but nothing was confirmed or delivered for 5 s"
            eventually(lambda: pool.says(f"broker unavailable since {down['timestamp'][:16]}"), seconds=5)
            assert pool.metrics_now()['cim_dependency_up{dependency="broker"}'] == 0
            time.sleep(max(0.0, frozen_at + FROZEN_SECONDS - time.monotonic()))
        finally:
            breakable_broker.thaw()
        eventually(lambda: of_the_broker(pool.lines("dependency_up")), seconds=10)
        eventually(lambda: world.depth(desk) == len(NUMBERS), "all there, none twice", 60)
        eventually(lambda: pool.ready()[0])
        assert len(pool.lines("consuming")) == 1, "the session was not ended"
        for event in ("dependency_down", "dependency_up"):
            assert len(of_the_broker(pool.lines(event))) == 1
    breakable_broker.delete_vhost(vhost)


def test_who_is_told_to_stop_while_the_broker_is_frozen_ends_in_order_and_in_time(
    breakable_broker: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    vhost = f"frozen-{uuid.uuid4().hex}"
    world = World(breakable_broker.create_vhost(vhost), store.uri, database, tmp_path)
    world.apply_topology()
    with world.pool(CIM_DRAIN_GRACE_MS=f"{GRACE_SECONDS * 1000:.0f}") as pool:
        eventually(lambda: pool.ready()[0])
        breakable_broker.freeze()
        try:
            pool.signal()
            assert pool.wait(GRACE_SECONDS + STUCK_SECONDS) == 0
        finally:
            breakable_broker.thaw()
        assert len(pool.lines("drained")) == len(pool.lines("worker_stopped")) == 1
        assert pool.lines("worker_process_stuck") == []
    breakable_broker.delete_vhost(vhost)
