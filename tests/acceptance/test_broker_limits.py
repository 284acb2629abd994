"""A broker whose own limits lie below ours: what is too large for it harms nobody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_run import message
from tests.services.services import private_broker
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.broker import LocalBroker
    from tests.services.services import Store

LIMIT = 100_000


@pytest.fixture(scope="module")
def narrow(rabbitmq_root: Path | None) -> Iterator[LocalBroker]:
    with private_broker(
        chroot=rabbitmq_root, configuration=[f"max_message_size = {LIMIT}"], say=lambda _line: None
    ) as broker:
        yield broker


def test_an_event_larger_than_the_broker_takes_is_stored_and_its_neighbours_are_published_once(
    narrow: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    """The event holds more than its message: below the limit when it comes, above it when it goes."""
    world = World(narrow.create_vhost("too-large"), store.uri, database, tmp_path)
    world.apply_topology()
    with world.pool() as pool:
        desk = world.open("live")
        envelope = len(message("large-0", "", conversationId="live"))
        large = [message(f"large-{n}", "x" * (LIMIT - envelope), conversationId="live") for n in range(3)]
        assert {len(one) for one in large} == {LIMIT}
        small = [message(f"small-{n}", conversationId="live") for n in range(300)]
        world.publish(*small[:100], large[0], *small[100:200], large[1], *small[200:], large[2])

        eventually(lambda: len(world.stored_ids()) == 3, "three large ones stored")
        eventually(lambda: world.depth(desk) >= 300, "all small ones published")
        received = [json.loads(body)["data"]["id"] for *_, body in world.received(desk)]
        assert sorted(received) == sorted(f"small-{n}" for n in range(300))
        assert world.stored("large-0") is not None
        assert pool.lines("session_ended") == []
        assert pool.lines("dependency_down") == []


def test_the_doctor_compares_the_limits(narrow: LocalBroker, store: Store) -> None:
    url = narrow.create_vhost("too-large-for-the-doctor")
    cim_worker("topology", "apply", CIM_RABBITMQ_URL=url)
    finished = cim_worker("doctor", "--json", CIM_RABBITMQ_URL=url, CIM_MONGODB_URI=store.uri)
    (found,) = [one for one in json.loads(finished.stdout)["findings"] if one["what"] == "message size"]
    assert found["state"] == "warning"
    assert found["detail"].startswith(f"the broker takes {LIMIT} bytes, CIM_MAX_MESSAGE_BYTES is ")
    assert found["fix"] == "raise max_message_size, or lower CIM_MAX_MESSAGE_BYTES"


def test_publishing_by_hand_says_what_is_too_large_for_the_broker(narrow: LocalBroker, tmp_path: Path) -> None:
    url = narrow.create_vhost("too-large-by-hand")
    cim_worker("topology", "apply", CIM_RABBITMQ_URL=url)
    file = tmp_path / "large.jsonl"
    lines = [message("a", conversationId="c"), message("b", "x" * LIMIT, conversationId="c")]
    file.write_bytes(b"\n".join(lines))
    finished = cim_worker("publish", file, CIM_RABBITMQ_URL=url)
    assert finished.returncode == ExitCode.REJECTED
    assert "1 confirmed" in finished.stdout
    assert "1 message larger than the broker's max_message_size" in finished.stderr
