"""The rights that deploy/README.md asks for are enough, and no more than that is needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest

from tests.acceptance.test_cli_offline import INVALID, VALID
from tests.documentation import rights
from tests.support.command import COMMAND, cim_worker, running, wait_until
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Store

OPENED = {
    "name": "TOPIC_STATE_CHANGE_EVENT",
    "timestamp": 1760000000000,
    "data": {"id": "c-1", "state": "ACTIVE", "customer": {"_id": "u-1"}},
}


def test_every_user_can_do_its_job(
    url_of: Callable[[str], str], vhost_url: str, store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    places = {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": documents.name, "CIM_RECORD_INTERVAL_MS": "100"}
    operator = url_of("operator (`topology apply`)")
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=operator).returncode == ExitCode.OK
    worker = url_of("worker")
    log = tmp_path / "worker.log"

    with running(COMMAND, "run", log=log, CIM_RABBITMQ_URL=worker, **places):
        publish(url_of("platform (conversation events)"), "cim.conversation-events", OPENED)
        wait_until(lambda: conversation_is_open(vhost_url))
        with pika.BlockingConnection(pika.URLParameters(url_of("subscriber with queues `crm.…`"))) as connection:
            channel = connection.channel()
            channel.queue_declare("crm.c-1", exclusive=True)
            channel.queue_bind("crm.c-1", "conversation.c-1")
            publisher = url_of("publisher")
            elsewhere = {**VALID, "id": "m-2", "header": {**VALID["header"], "conversationId": "c-2"}}
            for message in (VALID, INVALID, elsewhere):
                publish(publisher, "cim.ingress", message)

            wait_until(lambda: channel.basic_get("crm.c-1", auto_ack=True)[0] is not None)
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-2"}))
        wait_until(lambda: documents["dead_letters"].find_one({"code": "missing_anchor"}))
    assert "ACCESS_REFUSED" not in log.read_text()


def test_the_desk_can_replay_with_its_own_rights(
    url_of: Callable[[str], str], vhost_url: str, store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    desk, worker = url_of("desk (`dead-letters`, `desk`)"), url_of("worker")
    places = {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": documents.name, "CIM_RECORD_INTERVAL_MS": "100"}
    trust = {"CIM_TRUSTED_USERS": urlsplit(desk).username or ""}
    why = ("--yes", "--reason", "a test")
    mended = ("--set", 'header.conversationId="c-1"', "--apply", *why)

    with running(COMMAND, "run", log=tmp_path / "worker.log", CIM_RABBITMQ_URL=worker, **places, **trust):
        publish(url_of("publisher"), "cim.ingress", INVALID)
        wait_until(lambda: documents["dead_letters"].find_one({"code": "missing_anchor"}))
        assert cim_worker("dead-letters", "fix", *mended, CIM_RABBITMQ_URL=desk, **places).returncode == ExitCode.OK
        replayed = cim_worker("dead-letters", "replay", *why, CIM_RABBITMQ_URL=desk, **places)
        assert replayed.returncode == ExitCode.OK, replayed.stdout + replayed.stderr
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-1"}))
        assert cim_worker("status", CIM_RABBITMQ_URL=url_of("on call (`explain`, `status`)"), **places).returncode == 0


def test_the_hot_path_configures_nothing(
    url_of: Callable[[str], str], vhost_url: str, store: Store, documents: Database[dict[str, object]], tmp_path: Path
) -> None:
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    worker = url_of("worker, hot path only (`CIM_CONVERSATION_EVENTS=false`)")
    places = {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": documents.name, "CIM_CONVERSATION_EVENTS": "false"}

    with running(COMMAND, "run", log=tmp_path / "worker.log", CIM_RABBITMQ_URL=worker, **places):
        publish(vhost_url, "cim.ingress", VALID)
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-1"}))


def test_a_publisher_that_knows_only_the_default_exchange_needs_the_right_to_it(
    url_of: Callable[[str], str], vhost_url: str
) -> None:
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK

    publish(url_of("publisher through the default exchange"), "", VALID, "cim.ingress")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        publish(url_of("publisher"), "", VALID, "cim.ingress")


def test_receipts_need_the_rights_that_are_documented_and_no_other(
    url_of: Callable[[str], str], vhost_url: str, store: Store, tmp_path: Path
) -> None:
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    askers = {
        "amq.rabbitmq.reply-to": url_of("publisher"),
        "cim.receipts.recorder": url_of("publisher with receipts in `cim.receipts.recorder`"),
    }
    log = tmp_path / "worker.log"
    with running(COMMAND, "run", log=log, CIM_RABBITMQ_URL=url_of("worker"), CIM_MONGODB_URI=store.uri):
        for address, publisher in askers.items():
            with pika.BlockingConnection(pika.URLParameters(publisher)) as connection:
                channel = connection.channel()
                if not address.startswith("amq."):
                    channel.queue_declare(address, durable=True)
                told: list[bytes] = []
                channel.basic_consume(address, lambda *one, into=told: into.append(one[-1]), auto_ack=True)
                properties = pika.BasicProperties(reply_to=address)
                channel.basic_publish("cim.ingress", "any", json.dumps(INVALID), properties)
                wait_until(lambda connection=connection, told=told: connection.process_data_events(0.05) or told)  # type: ignore[misc]
            assert json.loads(told[0])["outcome"] == "dead"
    assert "ACCESS_REFUSED" not in log.read_text()


def test_a_worker_without_a_right_says_which_and_takes_nothing(
    url_with_rights: Callable[..., str], vhost_url: str, store: Store, tmp_path: Path
) -> None:
    """Found out later, at the first dead letter, it would hand everything back again and again."""
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    given = rights("worker")
    worker = url_with_rights(**given | {"write": given["write"].replace(r"|cim\.dead-letters", "")})
    user = urlsplit(worker).username
    publish(vhost_url, "cim.ingress", INVALID)
    log = tmp_path / "worker.log"

    with running(COMMAND, "run", log=log, CIM_RABBITMQ_URL=worker, CIM_MONGODB_URI=store.uri):
        wait_until(lambda: f"the user {user} may not write to the exchange cim.dead-letters" in log.read_text())
    assert log.read_text().count("may not") == 1
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        method, *_ = connection.channel().basic_get("cim.ingress")
        assert method is not None
        assert not method.redelivered


def publish(url: str, exchange: str, document: object, routing_key: str = "any") -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(exchange, routing_key, json.dumps(document).encode(), mandatory=True)


def conversation_is_open(url: str) -> bool:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        try:
            connection.channel().exchange_declare("conversation.c-1", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True
