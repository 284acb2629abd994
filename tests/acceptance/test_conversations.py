"""Conversations of a running pool: what became of broker objects or of a record touches no other, and is mended."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pymongo
import pytest

from tests.support.amqp import plain
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def activity(message_id: str, conversation_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "conversationId": conversation_id}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


def test_active_conversations_come_back_after_their_hub_was_deleted_and_repaired(world: World) -> None:
    with world.pool() as pool:
        queue = world.open("c-1")
        pool.wait_for("exchanges_reconciled")
        with plain(world.amqp_url) as channel:
            channel.exchange_delete("cim.conversations")
        world.tell("c-2", "ACTIVE", int(time.time() * 1000))
        pool.wait_for("conversation_exchange_refused")

        applied = cim_worker("topology", "apply", CIM_RABBITMQ_URL=world.amqp_url)

        assert applied.returncode == ExitCode.OK, applied.stderr
        pool.wait_for("exchanges_reconciled", count=2)
        world.publish(activity("m-1", "c-1"))
        eventually(lambda: world.received(queue), "the event of the conversation that was open before")
        world.subscribe("c-2")


def test_a_conversation_whose_exchange_vanished_gets_it_back_after_its_next_event(world: World) -> None:
    with world.pool() as pool:
        world.open("c-1")
        pool.wait_for("exchanges_reconciled")
        with plain(world.amqp_url) as channel:
            channel.exchange_delete("conversation.c-1")
        world.publish(activity("m-1", "c-1"))
        eventually(lambda: len(world.stored_ids()) == 1, "the event nobody could get")

        queue = world.subscribe("c-1")

        world.publish(activity("m-2", "c-1"))
        eventually(lambda: world.received(queue), "the next event")


def test_records_nobody_can_read_end_no_process_and_hold_up_no_other_conversation(world: World) -> None:
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(world.mongodb_uri)
    with client:
        client[world.database]["conversations"].insert_many(
            [
                {"_id": "odd", "state": "CLOSED", "channelSessionUpdatedAt": 5, "channelSessionIds": ["s-1"]},
                {"_id": "date", "state": "ACTIVE", "stateUpdatedAt": datetime.now(UTC)},
                {"_id": 7, "state": "ACTIVE", "channelSessionIds": ["s-1"]},
            ]
        )
    with world.pool("--processes", "2") as pool:
        world.tell("odd", "ACTIVE", int(time.time() * 1000))
        queue = world.open("c-1")
        header = {"sender": {"id": "app-1", "type": "APP"}, "channelSessionId": "s-1"}
        by_session = json.dumps({"id": "by-session", "header": header, "body": {"type": "PLAIN"}}).encode()
        world.publish(by_session, *(activity(f"m-{number}", "date") for number in range(10)), activity("m-c", "c-1"))
        eventually(lambda: world.received(queue), "the good conversation's event")
        eventually(lambda: len(world.stored_ids()) == 11, "the others, stored")
        assert world.letter()[0].headers["cim-code"] == "unreadable_record"
        assert {line["conversation_id"] for line in pool.lines("conversation_unreadable")} >= {"date", "odd"}
        assert not pool.lines("worker_process_died")
