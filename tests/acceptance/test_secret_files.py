"""Secrets come from files, too, and are rotated while the pool goes on."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Broker, Store


def activity(message_id: str) -> bytes:
    header = {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


def test_new_credentials_are_used_at_the_next_connection_and_a_new_store_address_by_the_next_process(
    broker: Broker, vhost_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    user, vhost = f"worker-{uuid.uuid4().hex[:8]}", urlsplit(vhost_url).path[1:]

    def write_broker_url(password: str) -> None:
        broker.management.create_user(user, password)
        broker.management.set_permissions(user, vhost)
        (tmp_path / "broker").write_text(vhost_url.replace("guest:guest@", f"{user}:{password}@") + "\n")

    def connections() -> list[str]:
        found = broker.management.request("GET", "/connections")
        return [one["name"] for one in found if one.get("user") == user]

    world = World(vhost_url, store.uri, database, tmp_path)
    world.apply_topology()
    write_broker_url("sesame-1")
    (tmp_path / "store").write_text(store.uri)
    files = {"CIM_RABBITMQ_URL_FILE": str(tmp_path / "broker"), "CIM_MONGODB_URI_FILE": str(tmp_path / "store")}
    with world.pool(CIM_RABBITMQ_URL="", CIM_MONGODB_URI="", **files) as pool:
        pool.wait_for("consuming")
        write_broker_url("sesame-2")
        for name in eventually(connections, "the broker shows them"):
            broker.management.request("DELETE", f"/connections/{quote(name)}", missing_is_fine=True)
        pool.wait_for("consuming", 2)

        (tmp_path / "store").write_text(store.uri + "?appName=rotated")
        pool.wait_for("store_secret_changed")
        pool.wait_for("worker_process_ended")
        pool.wait_for("consuming", 3)
        world.publish(activity("after"))
        eventually(lambda: world.stored("after"))
        assert not pool.lines("worker_process_died")
        assert "sesame" not in pool.text
        pool.signal()
        assert pool.wait() == 0


@pytest.mark.parametrize(
    ("content", "also", "problem"),
    [
        (None, "", "the file cannot be read: No such file or directory"),
        ("", "", "the file is empty"),
        ("amqp://a/", "amqp://b/", "CIM_RABBITMQ_URL is set, too; set one of them"),
    ],
)
def test_a_secret_that_cannot_be_read_is_one_sentence(
    content: str | None, also: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    finished = cim_worker("settings", CIM_RABBITMQ_URL_FILE=str(file), CIM_RABBITMQ_URL=also)
    assert finished.returncode == 2
    assert finished.stderr == f"cim-worker: CIM_RABBITMQ_URL_FILE: {problem}\n"
