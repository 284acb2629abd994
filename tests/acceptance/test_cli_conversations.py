"""`cim-worker conversations`, without any running worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pika
import pika.exceptions
import pymongo
import pytest

from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from tests.services.services import Store


@pytest.fixture
def places(vhost_url: str, store: Store, database: str) -> dict[str, str]:
    """Settings that lead to a virtual host with everything in it and to an empty database."""
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    return {"CIM_RABBITMQ_URL": vhost_url, "CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}


def is_routed(vhost_url: str, conversation_id: str) -> bool:
    """Tell whether a live event of the conversation would reach a subscriber, by sending one."""
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, f"conversation.{conversation_id}")
        channel.confirm_delivery()
        try:
            channel.basic_publish("cim.conversations", conversation_id, b"{}", mandatory=True)
        except pika.exceptions.UnroutableError:
            return False
        return bool(channel.basic_get(queue, auto_ack=True)[2] == b"{}")


def has_exchange(vhost_url: str, conversation_id: str) -> bool:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        try:
            connection.channel().exchange_declare(f"conversation.{conversation_id}", passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        return True


def test_opening_writes_the_registry_and_opens_the_exchange(places: dict[str, str]) -> None:
    room = '{"id": "r-1", "mode": "CONTACT_CENTER"}'
    options = ("--customer", "u-1", "--room-info", room, "--session", "s-1", "--session", "s-2")

    opened = cim_worker("conversations", "open", "c-1", *options, "--json", **places)

    assert opened.returncode == ExitCode.OK, opened.stderr
    shown = printed_json(cim_worker("conversations", "show", "c-1", "--json", **places))
    assert (shown["state"], shown["active"], shown["customerId"]) == ("ACTIVE", True, "u-1")
    assert shown["roomInfo"] == {"id": "r-1", "mode": "CONTACT_CENTER"}
    assert shown["channelSessionIds"] == ["s-1", "s-2"]
    assert is_routed(places["CIM_RABBITMQ_URL"], "c-1")


def test_opening_twice_is_harmless(places: dict[str, str]) -> None:
    cim_worker("conversations", "open", "c-1", "--customer", "u-1", **places)

    again = cim_worker("conversations", "open", "c-1", "--json", **places)

    assert again.returncode == ExitCode.OK
    assert printed_json(again)["customerId"] == "u-1"
    assert is_routed(places["CIM_RABBITMQ_URL"], "c-1")


def test_closing_takes_the_exchange_off_the_hub_and_keeps_it_for_its_readers(places: dict[str, str]) -> None:
    cim_worker("conversations", "open", "c-1", **places)

    closed = [cim_worker("conversations", "close", "c-1", "--json", **places) for _ in range(2)]

    assert [one.returncode for one in closed] == [ExitCode.OK, ExitCode.OK]
    assert printed_json(closed[0])["active"] is False
    assert has_exchange(places["CIM_RABBITMQ_URL"], "c-1")
    assert not is_routed(places["CIM_RABBITMQ_URL"], "c-1")


def test_closing_now_deletes_the_exchange_and_opening_brings_it_back(places: dict[str, str]) -> None:
    cim_worker("conversations", "open", "c-1", **places)

    assert cim_worker("conversations", "close", "c-1", "--now", **places).returncode == ExitCode.OK
    assert not has_exchange(places["CIM_RABBITMQ_URL"], "c-1")

    assert cim_worker("conversations", "open", "c-1", **places).returncode == ExitCode.OK
    assert is_routed(places["CIM_RABBITMQ_URL"], "c-1")


def test_a_list_can_be_narrowed(places: dict[str, str]) -> None:
    for conversation_id in ("c-1", "c-2", "c-3"):
        cim_worker("conversations", "open", conversation_id, **places)
    cim_worker("conversations", "close", "c-2", **places)

    def listed(*options: str) -> list[str]:
        return [one["_id"] for one in printed_json(cim_worker("conversations", "list", "--json", *options, **places))]

    assert listed() == ["c-1", "c-2", "c-3"]
    assert listed("--active") == ["c-1", "c-3"]
    assert listed("--inactive") == ["c-2"]
    assert listed("--state", "CLOSED") == ["c-2"]
    assert listed("--limit", "1") == ["c-1"]


def test_a_conversation_nobody_knows_has_its_own_exit_code(places: dict[str, str]) -> None:
    finished = cim_worker("conversations", "show", "nobody", **places)

    assert finished.returncode == ExitCode.NOT_FOUND
    assert "nobody" in finished.stderr


def test_a_record_nobody_can_read_is_named_and_hides_no_other(places: dict[str, str]) -> None:
    cim_worker("conversations", "open", "c-1", **places)
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(places["CIM_MONGODB_URI"])
    with client:
        records = client[places["CIM_MONGODB_DATABASE"]]["conversations"]
        records.insert_one({"_id": "c-2", "state": "ACTIVE", "stateUpdatedAt": datetime.now(UTC)})

    listed = cim_worker("conversations", "list", **places)
    assert listed.returncode == ExitCode.OK, listed.stderr
    assert "c-1" in listed.stdout
    assert "stateUpdatedAt is of type datetime" in listed.stdout
    for command in ("show", "close", "open"):
        refused = cim_worker("conversations", command, "c-2", **places)
        assert refused.returncode == ExitCode.REJECTED
        assert "stateUpdatedAt is of type datetime" in refused.stderr


def test_closing_a_conversation_nobody_knows_creates_nothing(places: dict[str, str]) -> None:
    closed = cim_worker("conversations", "close", "typo", **places)

    assert closed.returncode == ExitCode.NOT_FOUND
    assert "typo" in closed.stderr
    assert printed_json(cim_worker("conversations", "list", "--json", **places)) == []


def test_the_sessions_of_a_closed_conversation_are_not_live(places: dict[str, str]) -> None:
    cim_worker("conversations", "open", "c-1", "--session", "s-1", **places)
    assert "s-1 (live)" in cim_worker("conversations", "show", "c-1", **places).stdout

    assert "s-1 (closed)" in cim_worker("conversations", "close", "c-1", **places).stdout


def test_a_command_that_did_not_win_says_so(places: dict[str, str]) -> None:
    """Somebody's record is from the future: closing it now changes nothing."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(places["CIM_MONGODB_URI"])
    with client:
        records = client[places["CIM_MONGODB_DATABASE"]]["conversations"]
        records.insert_one({"_id": "c-1", "state": "ACTIVE", "stateUpdatedAt": 4_000_000_000_000})

    closed = cim_worker("conversations", "close", "c-1", **places)

    assert closed.returncode == ExitCode.REJECTED
    assert "'c-1' stays ACTIVE" in closed.stderr
    assert "2096-10-02" in closed.stderr


@pytest.mark.parametrize(
    "arguments", [("c-1\n",), ("\x1b[31mc",), ("",), ("c-1", "--session", ""), ("c-1", "--customer", "u\t")]
)
def test_an_id_that_cannot_name_anything_is_refused_before_anything_is_written(arguments: tuple[str, ...]) -> None:
    finished = cim_worker("conversations", "open", *arguments)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "control character" in finished.stderr
    assert "\x1b" not in finished.stderr


@pytest.mark.parametrize("options", [("--room-info", one) for one in ("not json", "[]", '{"id": NaN}')])
def test_a_room_that_is_no_object_is_refused_before_anything_is_written(options: tuple[str, ...]) -> None:
    finished = cim_worker("conversations", "open", "c-1", *options)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "--room-info" in finished.stderr
