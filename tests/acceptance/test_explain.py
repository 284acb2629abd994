"""`cim-worker explain`: the story of a message from journal, store, registry and dead letters, whatever is away."""

from __future__ import annotations

import gzip
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.support.amqp import plain
from tests.support.command import cim_worker, printed_json
from tests.support.eventually import eventually
from tests.support.terminal import on_terminal
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.services import Store

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NOWHERE = {"CIM_RABBITMQ_URL": "amqp://127.0.0.1:9/", "CIM_MONGODB_URI": "mongodb://127.0.0.1:9/"}


def message(message_id: str, text: str = "hello", **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": text}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


class Asked:
    """The command, with what a user has set."""

    def __init__(self, world: World, **variables: str) -> None:
        self.variables = {
            "CIM_RABBITMQ_URL": world.amqp_url,
            "CIM_MONGODB_URI": world.mongodb_uri,
            "CIM_MONGODB_DATABASE": world.database,
            "CIM_MONGODB_TIMEOUT_MS": "3000",
            **variables,
        }

    def about(self, wanted: str, *options: str, code: int = 0) -> dict[str, Any]:
        finished = cim_worker("explain", wanted, "--json", *options, **self.variables)
        assert finished.returncode == code, finished.stderr
        found: dict[str, Any] = printed_json(finished)
        return found

    def lines(self, wanted: str, *options: str) -> list[str]:
        return cim_worker("explain", wanted, *options, **self.variables).stdout.splitlines()


def test_every_id_of_a_message_leads_to_its_story_and_what_is_away_is_said(  # noqa: PLR0915 - one pool for all of it
    world: World, url_of: Callable[[str], str]
) -> None:
    session = {"participantType": "ChannelSession", "id": "s-2", "state": {"name": "STARTED"}}
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="100") as pool:
        pool.wait_for("consuming")
        world.open("c-1", customer={"_id": "u-1"})
        world.open("c-2", participants=[{"participant": session}])
        world.publish(message("live", conversationId="c-1"), message_id="amqp-2")
        world.publish(*(message("room-7", text, customer={"_id": "u-1"}) for text in ("first", "second", "first")))
        world.publish(message("invalid"), message_id="amqp-1")
        world.tell("c-1", "CLOSED", 1_760_000_000_999)
        eventually(lambda: {one["_id"]: one["state"] for one in world.collection("conversations")}["c-1"] == "CLOSED")
        world.publish(message("both", conversationId="c-1", customer={"_id": "u-2"}, channelSessionId="s-2"))
        eventually(lambda: world.stored("both"))
        (letter,) = eventually(lambda: world.collection("dead_letters"))
        pool.signal()
        assert pool.wait() == 0
    asked = Asked(world, CIM_RABBITMQ_URL=url_of("on call (`explain`, `status`)"))

    shared = asked.about("room-7")
    assert (shared["is"], shared["complete"]) == (["message id"], True)
    told = [sorted(one["what"] for one in story["timeline"]) for story in shared["activities"]]
    assert sorted(told) == [
        ["document", "duplicate", "received", "received", "stored"],
        ["document", "received", "stored"],
    ]
    first = shared["activities"][0]
    assert first["document"]["stored_because"] == "stand_alone"
    by_event = asked.about(first["eventId"])
    assert (by_event["is"], by_event["activities"]) == (["event id"], shared["activities"])

    (live,) = asked.about("live")["activities"]
    assert [one["what"] for one in live["timeline"]] == ["received", "published"]
    assert live["now"][0].startswith("with the subscribers")

    dead = asked.about(letter["_id"])
    (story,) = dead["activities"]
    assert dead["is"] == ["dead letter"]
    assert sorted(one["what"] for one in story["timeline"]) == ["dead", "letter", "received"]
    assert story["letters"][0]["code"] == "missing_anchor"
    by_amqp = asked.about("amqp-2")
    assert (by_amqp["is"], by_amqp["activities"]) == (["AMQP message id"], asked.about("live")["activities"])
    assert asked.about("amqp-1")["is"] == ["AMQP message id of a dead letter"]
    lines = asked.lines("invalid")
    assert lines[0] == "invalid: message id"
    assert any(line.startswith("  now: dead letter ") and "missing_anchor" in line for line in lines)
    assert any("it reaches back to" in line for line in lines)

    (both,) = asked.about("both")["activities"]
    customer, channel_session = both["contradictions"]
    assert "customer u-2" in customer
    assert "conversation c-2" in channel_session
    assert both["now"][-1] == "its conversation c-1 is over: CLOSED"

    without_broker = Asked(world, CIM_RABBITMQ_URL=NOWHERE["CIM_RABBITMQ_URL"]).about("both")
    assert not without_broker["complete"]
    assert [one["what"] for one in without_broker["activities"][0]["timeline"]] == ["document"]
    without_store = Asked(world, CIM_MONGODB_URI=NOWHERE["CIM_MONGODB_URI"])
    answer = without_store.about("both")
    assert [one["what"] for one in answer["activities"][0]["timeline"]] == ["received", "stored"]
    assert {one["where"] for one in answer["searched"] if one["problem"]} == {"dead letters", "store", "registry"}
    assert not without_store.about("nobody", code=4)["activities"]
    assert not Asked(world, **NOWHERE).about("both", code=3)["activities"]


def test_the_journal_is_searched_as_far_back_as_asked_and_damaged_messages_end_nothing(world: World) -> None:
    now = int(time.time() * 1000)

    def entry(message_id: str, age_hours: int) -> dict[str, Any]:
        at = now - age_hours * 3_600_000
        ids = {"eventId": f"{age_hours:024x}", "messageId": message_id, "senderId": "app-1", "conversationId": "c-1"}
        return {**ids, "outcome": "published", "reason": None, "code": None, "receivedAt": at - 5, "at": at}

    def entries(*outcomes: object, **more: Any) -> bytes:
        return gzip.compress(json.dumps({"worker": "host:1", "at": now, "outcomes": outcomes, **more}).encode())

    gap = {"from": now - 60_000, "to": now - 30_000, "count": 7}
    bodies = [
        entries(entry("old", 48)),
        b"\x1f\x8b damaged",
        gzip.compress(b"{}"),
        gzip.compress(bytes(100_000_000)),
        entries(17, {"outcome": 1}, entry("young", 1), gap=gap),
    ]
    with plain(world.amqp_url) as channel:
        for body in bodies:
            channel.basic_publish("", "cim.outcomes", body, pika.BasicProperties(content_encoding="gzip"))
    asked = Asked(world)
    answer = asked.about("young")
    assert answer["journal"]["unreadable"] == 2  # nothing names the id in the third, so nobody looks into it
    assert answer["journal"]["gaps"] == [{"worker": "host:1", "from": gap["from"], "to": gap["to"], "count": 7}]
    assert answer["journal"]["reachesBackTo"] == entry("old", 48)["at"]
    assert len(answer["activities"]) == 1
    assert not asked.about("old", code=5)["activities"]
    assert "older outcomes are found with an earlier --since" in "".join(asked.lines("old"))
    assert len(asked.about("old", "--since", "7d")["activities"]) == 1
    refused = cim_worker("explain", "x", "--since", "yesterday")
    assert refused.returncode == 2
    assert "--since" in refused.stderr
    assert cim_worker("explain", " ").returncode == 2, "what a script gives that has no id"


def test_a_long_journal_is_read_with_a_bar_on_a_terminal_and_without_one_elsewhere(world: World) -> None:
    now, number = int(time.time() * 1000), 120
    outcomes = [
        {"eventId": f"{one:024x}", "messageId": f"m-{one}", "outcome": "stored", "at": now} for one in range(9000)
    ]
    body = gzip.compress(json.dumps({"worker": "host:1", "at": now, "outcomes": outcomes}).encode())
    with plain(world.amqp_url) as channel:
        for _ in range(number):
            channel.basic_publish("", "cim.outcomes", body, pika.BasicProperties(content_encoding="gzip"))
    asked = Asked(world)
    finished = cim_worker("explain", "nobody", **asked.variables)
    assert (finished.returncode, finished.stderr) == (5, "")
    assert "reading the journal" not in finished.stdout

    shown = on_terminal("explain", "nobody", columns=80, **asked.variables)

    lines = [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", shown)]
    bars = [line for line in lines if line.startswith("reading the journal")]
    assert max(map(len, bars)) < 80
    reached = {int(found[1]) for line in bars if (found := re.search(rf" (\d+)/{number} ", line))}
    assert len(reached) > 1, f"how far it is: {bars}"
    since, hint, rest = lines[-3:]
    assert since.startswith("  since "), "the bar is gone at the end"
    assert (hint.startswith("An AMQP message id"), rest) == (True, "")
