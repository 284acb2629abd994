"""Hostile messages through a real broker and a real worker: each has exactly one outcome, the process never dies."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pika
import pymongo
import pytest

from tests.fuzz import amqp, shapes
from tests.fuzz.campaign import Target, run
from tests.services.processes import free_ports
from tests.support.command import COMMAND, cim_worker, running, wait_until
from worker import contract
from worker.cim import CimMessage, Rejected, parse
from worker.conversations.lifecycle import parse_lifecycle
from worker.rabbit.connection import Connection
from worker.rabbit.errors import BrokerError
from worker.rabbit.frames import encode_publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hypothesis import strategies as st

    from tests.services.services import Store

SEED = 20_251_010
_NOW_MS = 1_760_000_000_000
LIVE = "65f0c0ffee0000000000abcd"
"""The conversation of most examples."""
_FRAME_BYTES = 120_000
_ENORMOUS = (("S", b"x" * 100_000), amqp.nested(50), amqp.nested(50, "A"), ("T", 1_760_000_000_123), ("V", None))
_FAKED_DEATH = ("A", (("F", (("reason", ("S", b"rejected")), ("count", ("l", 9)), ("queue", ("S", b"elsewhere")))),))
_BY_HAND: tuple[tuple[amqp.Field, ...], ...] = (
    *(
        (("headers", ((name, value),)),)
        for value in _ENORMOUS
        for name in ("h", contract.ATTEMPT, "traceparent", "x-death")
    ),
    (("headers", (("x-death", _FAKED_DEATH), ("x-delivery-count", ("l", 2**62)), ("x-acquired-count", ("S", b"")))),),
    (("headers", (("CC", ("A", (("S", b"nowhere"),))), ("BCC", ("A", (("S", b"nowhere"),))))),),
    (("headers", tuple((name, ("F", ())) for name in contract.LETTER_HEADERS)),),
    (("headers", tuple((name, ("l", -(2**63))) for name in contract.LETTER_HEADERS)),),
    (("expiration", b"600000"), ("user_id", b"guest"), ("app_id", b"\xff" * 255)),
    (("reply_to", b"amq.rabbitmq.reply-to.forged"), ("message_id", b"\xff" * 255)),
    (("timestamp", 2**64 - 1), ("type", b"\x00"), ("content_type", b"\xff"), ("priority", 255)),
)
Message = tuple[bytes, bytes]


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Return inputs of a strategy: the same ones every time."""
    found: list[Any] = []

    def keep(value: Any) -> str:
        found.append(value)
        return ""

    list(run(Target("drawn", 100, strategy, keep), count, SEED))
    return found


def acceptable(fields: tuple[amqp.Field, ...]) -> tuple[amqp.Field, ...]:
    """Return properties without those that the broker itself checks and closes the channel for."""
    return tuple((name, value) for name, value in fields if name not in {"user_id", "expiration", "delivery_mode"})


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # pika tells each of the broker's refusals, which are no news here.
    caplog.set_level("CRITICAL", "pika")


@pytest.fixture
def settings(vhost_url: str, store: Store, database: str) -> dict[str, str]:
    """A fresh topology and database, and an HTTP port."""
    variables = {
        "CIM_RABBITMQ_URL": vhost_url,
        "CIM_MONGODB_URI": store.uri,
        "CIM_MONGODB_DATABASE": database,
        "CIM_HTTP_PORT": str(free_ports(1)[0]),
        "CIM_RECORD_INTERVAL_MS": "100",
        "CIM_LOG_FORMAT": "json",
    }
    assert cim_worker("topology", "apply", **variables).returncode == 0
    return variables


def test_every_hostile_message_ends_in_exactly_one_outcome(settings: dict[str, str], tmp_path: Path) -> None:
    url, log = settings["CIM_RABBITMQ_URL"], tmp_path / "worker.log"
    bodies = drawn(shapes.messages(), 400)
    properties = [amqp.encode(fields) for fields in (*_BY_HAND, *map(acceptable, drawn(amqp.properties(), 300)))]
    properties = [raw for raw in properties if len(raw) < _FRAME_BYTES]
    messages = [(properties[index % len(properties)], body) for index, body in enumerate(bodies)]
    subscribe(url)
    with running(COMMAND, "run", log=log, **{**settings, "CIM_RECORD_DEAD_LETTERS": "false"}) as worker:
        taken = asyncio.run(publish(url, contract.INGRESS, messages))
        assert len(taken) > len(messages) * 3 // 4, "the broker itself refused too many"
        wait_until(lambda: sum(outcomes(settings).values()) >= len(taken), 60)
        counted = outcomes(settings)
        assert worker.poll() is None
    assert sum(counted.values()) == len(taken), counted
    check_places(settings, taken, counted)
    assert_undisturbed(log)


def check_places(settings: dict[str, str], taken: Sequence[Message], counted: Counter[str]) -> None:
    """Every message is where it belongs: an invalid one dead with the same bytes, a valid one at one place or more."""
    letters = Counter(body for _, body in drained(settings["CIM_RABBITMQ_URL"], contract.DEAD_LETTERS))
    events = [properties.message_id for properties, _ in drained(settings["CIM_RABBITMQ_URL"], "events")]
    with pymongo.MongoClient[dict[str, Any]](settings["CIM_MONGODB_URI"]) as client:
        activities = client[settings["CIM_MONGODB_DATABASE"]]["ConversationActivities"]
        stored = [str(document["_id"]) for document in activities.find({}, {"_id": 1})]
    assert (letters.total(), len(events), len(stored)) == tuple(
        counted[name] for name in ("dead", "published", "stored")
    )
    for _, body in taken:
        message = parse(body, received_at=0)
        if isinstance(message, CimMessage):
            assert message.event_id in {*events, *stored} or letters[body]
        else:
            assert letters[body]
            letters[body] -= 1


def test_hostile_letters_in_the_dead_letter_queue_are_all_recorded_or_parked(
    settings: dict[str, str], tmp_path: Path
) -> None:
    url, log = settings["CIM_RABBITMQ_URL"], tmp_path / "worker.log"
    properties = [amqp.encode(fields) for fields in (*_BY_HAND, *map(acceptable, drawn(amqp.properties(), 200)))]
    messages = [(raw, b"letter %d" % index) for index, raw in enumerate(properties) if len(raw) < _FRAME_BYTES]
    taken = asyncio.run(publish(url, contract.DEAD_LETTERS, messages))
    with (
        running(COMMAND, "run", log=log, **settings) as worker,
        pymongo.MongoClient[dict[str, Any]](settings["CIM_MONGODB_URI"]) as client,
    ):
        letters = client[settings["CIM_MONGODB_DATABASE"]]["dead_letters"]
        wait_until(lambda: letters.count_documents({}) >= len(taken), 60)
        assert worker.poll() is None
        assert {bytes(letter["body"]) for letter in letters.find({"status": "open"})} == {body for _, body in taken}
    assert drained(url, contract.DEAD_LETTERS) == drained(url, contract.PARKED) == []
    assert_undisturbed(log)


def test_hostile_conversation_events_do_not_stop_those_behind_them(settings: dict[str, str], tmp_path: Path) -> None:
    url, log = settings["CIM_RABBITMQ_URL"], tmp_path / "worker.log"
    events = drawn(shapes.lifecycle_events(), 300)
    invalid = sum(isinstance(parse_lifecycle(body, received_at=_NOW_MS), Rejected) for body in events)
    messages = [(amqp.encode(()), body) for body in (*events, opening("last"))]
    taken = asyncio.run(publish(url, contract.CONVERSATION_EVENTS, messages))
    assert len(taken) == len(messages)
    with (
        running(COMMAND, "run", log=log, **settings) as worker,
        pymongo.MongoClient[dict[str, Any]](settings["CIM_MONGODB_URI"]) as client,
    ):
        database = client[settings["CIM_MONGODB_DATABASE"]]
        wait_until(lambda: database["conversations"].find_one({"_id": "last"}), 60)
        # Bunches are handled one after the other: when the registry knows of this one, what came before is settled.
        asyncio.run(publish(url, contract.CONVERSATION_EVENTS, [(amqp.encode(()), opening("one more"))]))
        wait_until(lambda: database["conversations"].find_one({"_id": "one more"}), 60)
        # A letter is settled beside that, as soon as its copy is confirmed.
        wait_until(lambda: sum(letter["count"] for letter in database["dead_letters"].find()) >= invalid, 60)
        assert worker.poll() is None
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        declared = connection.channel().queue_declare(contract.CONVERSATION_EVENTS, passive=True)
    # The registry knows of the last event before it is acknowledged, so the stop may have come between the two.
    assert declared.method.message_count in {0, 1}
    assert_undisturbed(log)


def opening(conversation_id: str) -> bytes:
    data = {"id": conversation_id, "state": "ACTIVE"}
    return json.dumps({"name": "TOPIC_STATE_CHANGED", "timestamp": _NOW_MS, "data": data}).encode()


def assert_undisturbed(log: Path) -> None:
    """One process, one session, from beginning to end, and nobody's bug."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = Counter(line["event"] for line in lines)
    assert (told["worker_starting"], told["consuming"], told["worker_stopped"]) == (1, 1, 1), told
    assert not told["dependency_down"], [line for line in lines if line["event"] == "dependency_down"]
    assert not any(line.get("code") == "unexpected_error" for line in lines)


async def publish(url: str, queue: str, messages: Sequence[Message]) -> list[Message]:
    """Publish raw properties and bodies one by one; return those the broker took: it refuses some by itself."""
    taken: list[Message] = []
    connection = await Connection.open(url, name="fuzz")
    channel = await connection.channel()
    for properties, body in messages:
        try:
            frames = encode_publish(channel.raw.channel_number, "", queue, properties, body, frame_max=131_072)
            connection.raw.send([frames])
            # Answered after the publish was read: then it is in, or the channel is closed.
            await channel.call("queue_declare", queue, passive=True)
        except BrokerError:
            await connection.close()
            connection = await Connection.open(url, name="fuzz")
            channel = await connection.channel()
        else:
            taken.append((properties, body))
    await connection.close()
    return taken


def outcomes(settings: dict[str, str]) -> Counter[str]:
    """Return the worker's own count of outcomes; nothing as long as it does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings['CIM_HTTP_PORT']}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except urllib.error.URLError:
        return Counter()
    counted: Counter[str] = Counter()
    for outcome, count in re.findall(r'^cim_outcomes_total{.*?outcome="(\w+)".*?} (\S+)', text, re.MULTILINE):
        counted[outcome] += int(float(count))
    return counted


def subscribe(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("events", durable=True)
        channel.queue_bind("events", contract.HUB, LIVE)


def drained(url: str, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
    """Take everything out of a queue."""
    found: list[tuple[pika.BasicProperties, bytes]] = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, body))
