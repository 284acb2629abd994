"""Who published is kept with what is made of a message, and nobody sends in the name of another."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pika
import pytest

from tests.acceptance.test_cli_offline import INVALID, VALID
from tests.support.command import COMMAND, cim_worker, running, wait_until
from worker import contract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Broker, Store

PRETENCE = {
    contract.ATTEMPT: 1,
    contract.FAILED_AT: 1,
    contract.FIRST_FAILED_AT: 1,
    contract.ORIGIN_QUEUE: contract.INGRESS,
    contract.ORIGIN_EXCHANGE: "forged",
}


@pytest.fixture
def users(broker: Broker, vhost_url: str) -> Iterator[dict[str, str]]:
    """URLs of two publishers and the worker, each a broker user of its own, by role."""
    parts = urlsplit(vhost_url)
    names = {role: f"{role}-{secrets.token_hex(4)}" for role in ("app", "other", "worker")}
    for name in names.values():
        broker.management.create_user(name, "pw")
        broker.management.set_permissions(name, parts.path[1:])
    yield {
        role: parts._replace(netloc=f"{name}:pw@{parts.hostname}:{parts.port}").geturl() for role, name in names.items()
    }
    for name in names.values():
        broker.management.request("DELETE", f"/users/{quote(name)}", missing_is_fine=True)


def name_in(url: str) -> str:
    return urlsplit(url).username or ""


def publish(url: str, message: dict[str, Any], headers: dict[str, Any] | None = None, *, says_who: bool = True) -> None:
    """Publish as the user of *url*; with *says_who* the broker checks and vouches for the name."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        named = {"user_id": name_in(url)} if says_who else {}
        properties = pika.BasicProperties(headers=headers, **named)
        channel.basic_publish("", contract.INGRESS, json.dumps(message).encode(), properties, mandatory=True)


def take(url: str, queue: str) -> pika.BasicProperties:
    """Wait for the next message of a queue and return its properties."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        found: list[pika.BasicProperties] = []

        def look() -> bool:
            method, properties, _ = channel.basic_get(queue, auto_ack=True)
            if method is not None:
                found.append(properties)
            return bool(found)

        wait_until(look)
        return found[0]


@pytest.mark.parametrize("checked", [True, False], ids=["senders checked", "senders not checked"])
def test_the_user_the_broker_vouches_for_is_kept_with_events_and_dead_letters(
    checked: bool,  # noqa: FBT001 - a parameter of the test
    users: dict[str, str],
    store: Store,
    documents: Database[dict[str, object]],
    tmp_path: Path,
) -> None:
    app = users["app"]
    settings = settings_for(users, store, documents.name)
    if not checked:
        del settings["CIM_SENDER_USERS"]
    assert cim_worker("topology", "apply", **settings).returncode == 0
    subscribe(users["worker"])
    with running(COMMAND, "run", log=tmp_path / "log", **settings):
        publish(app, VALID)
        assert take(app, "events").headers[contract.USER_ID] == name_in(app)
        publish(app, INVALID)
        assert take(app, contract.DEAD_LETTERS).headers[contract.USER_ID] == name_in(app)
        publish(app, VALID, {**PRETENCE, contract.USER_ID: "admin"})
        assert take(app, "events").headers[contract.USER_ID] == name_in(app)


def test_nobody_sends_in_the_name_of_another_whatever_headers_they_set(
    users: dict[str, str], store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    app, other = users["app"], users["other"]
    settings = settings_for(users, store, documents.name)
    assert cim_worker("topology", "apply", **settings).returncode == 0
    subscribe(users["worker"])
    forged = {**PRETENCE, contract.USER_ID: name_in(app)}
    with running(COMMAND, "run", log=tmp_path / "log", **settings):
        for says_who, headers in ((True, None), (False, None), (True, forged), (False, forged)):
            publish(other, VALID, headers, says_who=says_who)
            letter = take(other, contract.DEAD_LETTERS)
            assert letter.headers[contract.CODE] == "sender_not_allowed"
            assert letter.headers[contract.POINTER] == "/header/sender/id"
            assert letter.headers.get(contract.USER_ID) == (name_in(other) if says_who else None)
            assert letter.headers[contract.ORIGIN_EXCHANGE] == ""
        unlisted = {**VALID, "header": {**VALID["header"], "sender": {"id": "nobody's", "type": "APP"}}}
        publish(other, unlisted)
        take(other, "events")
        publish(app, unlisted)
        assert take(app, contract.DEAD_LETTERS).headers[contract.CODE] == "sender_not_allowed"


def test_a_retried_message_still_belongs_to_its_publisher(
    users: dict[str, str], store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    """The copy in the retry tier is published by the worker; what it carries is believed, and only from the worker."""
    app = users["app"]
    settings = {**settings_for(users, store, documents.name), "CIM_RETRY_DELAYS": "1s,2s"}
    assert cim_worker("topology", "apply", **settings).returncode == 0
    with pika.BlockingConnection(pika.URLParameters(users["worker"])) as connection:
        channel = connection.channel()
        # A subscriber whose queue is full makes the broker refuse the event.
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", arguments=full)
        channel.queue_bind("full", contract.HUB, "c-1")
        channel.basic_publish("", "full", b"in the way")
        with running(COMMAND, "run", log=tmp_path / "log", **settings):
            publish(app, VALID)
            wait_until(lambda: '"retry"' in (tmp_path / "log").read_text())
            channel.queue_purge("full")
            event = take(app, "full")
    assert event.headers[contract.USER_ID] == name_in(app)
    assert event.type == "THIRD_PARTY_ACTIVITY"


def settings_for(users: dict[str, str], store: Store, database: str) -> dict[str, str]:
    return {
        "CIM_RABBITMQ_URL": users["worker"],
        "CIM_MONGODB_URI": store.uri,
        "CIM_MONGODB_DATABASE": database,
        "CIM_SENDER_USERS": f"{name_in(users['app'])}=app-1",
        "CIM_RECORD_DEAD_LETTERS": "false",
        "CIM_LOG_FORMAT": "json",
    }


def subscribe(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("events", durable=True)
        channel.queue_bind("events", contract.HUB, "c-1")
