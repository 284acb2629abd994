"""A broker whose own limits lie below ours: what is too large for it harms nobody else."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_journal import journal
from tests.acceptance.test_run import message
from tests.services.services import private_broker
from tests.support.amqp import plain
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


def test_long_ids_cost_nobody_a_journal_entry_or_a_receipt(
    narrow: LocalBroker, store: Store, database: str, tmp_path: Path
) -> None:
    """Two hundred entries with ids of 500 characters, or one id as long as a message, are more than it takes."""
    world = World(narrow.create_vhost("long-ids"), store.uri, database, tmp_path)
    world.apply_topology()
    with plain(world.amqp_url) as channel:
        channel.queue_declare("cim.receipts.app", durable=True)
    bodies = {token_hex(250): {"id": token_hex(250), "type": "APP"} for _ in range(599)}
    bodies["x" * (LIMIT - 200)] = {"id": "app-1", "type": "APP"}
    ids = {message_id[:512] for message_id in bodies}
    world.publish(
        *(
            json.dumps({"id": one, "header": {"sender": sender, "conversationId": "c"}, "body": {"type": "X"}}).encode()
            for one, sender in bodies.items()
        ),
        reply_to="cim.receipts.app",
    )
    with world.pool() as pool:
        desk = world.open("c")
        eventually(lambda: world.depth("cim.ingress") == 0, "everything is acknowledged")
        eventually(lambda: world.depth("cim.receipts.app") == len(ids), "a receipt for each")
        assert world.depth(desk) + len(world.stored_ids()) == len(ids)
        assert pool.metrics_now()["cim_journal_missed_total"] == 0
        assert pool.lines("dependency_down") == []
        assert pool.lines("receipts_interrupted") == []
    assert {json.loads(body)["messageId"] for *_, body in world.received("cim.receipts.app")} == ids
    entries = [one["messageId"] for entry in journal(world.amqp_url) for one in entry["outcomes"]]
    assert sorted(entries) == sorted(ids)


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
    file.write_bytes(lines[1])
    asked = cim_worker("publish", "--wait", file, CIM_RABBITMQ_URL=url)
    assert asked.returncode == ExitCode.REJECTED
    (counts,) = asked.stdout.splitlines()
    assert "1 too large" in counts, "and no table of receipts without rows"
