"""What the worker really writes is what the schemas say, whatever the message was."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fuzz import shapes
from tests.support.deliveries import NOW, FakeDelivery
from tests.support.examples import NAMES, raw
from tests.support.from_schema import Schema
from worker import contract
from worker.cim import CimMessage, Rejected, parse
from worker.conversations.conversation import ChannelSession, Conversation, Room
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.letter import PARKED
from worker.dead_letters.reading import read_letter
from worker.failure import Failure
from worker.mongo.dead_letters import _document
from worker.pipeline.translate import translate
from worker.ports import Properties
from worker.schemas import SCHEMAS
from worker.schemas.dead_letter import HEADERS, STATUSES

EVENT, LETTER, HEADERS_SCHEMA = (
    Schema(one.make()) for one in SCHEMAS if one.name in {"event", "dead-letter", "dead-letter-headers"}
)
MESSAGE = Schema(next(one.make() for one in SCHEMAS if one.name == "message"))
CONVERSATION = Conversation(
    "c", "ACTIVE", "customer", Room.of({"id": "r"}), (ChannelSession.of({"id": "s", "state": {"name": "STARTED"}}),), 1
)


@pytest.mark.parametrize("published", SCHEMAS, ids=lambda one: one.name)
def test_the_examples_of_a_schema_are_valid(published: Any) -> None:
    schema = Schema(published.make())
    schema.check()
    assert schema.document["examples"]
    assert [error for one in schema.document["examples"] for error in schema.errors(one)] == []


def event_of(message: CimMessage) -> Any:
    return json.loads(translate(message, CONVERSATION, now=NOW).event_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_the_event_of_every_example_is_as_the_schema_says(name: str) -> None:
    message = parse(raw(name), received_at=NOW)
    assert isinstance(message, CimMessage)
    assert EVENT.errors(event_of(message)) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64))
def test_the_event_of_any_valid_message_is_as_the_schema_says(seed: int) -> None:
    message = parse(json.dumps(MESSAGE.make(Random(seed))).encode(), received_at=NOW)
    assume(isinstance(message, CimMessage))  # otherwise an id that is short in characters and long in bytes
    assert isinstance(message, CimMessage)
    assert EVENT.errors(event_of(message)) == []


@settings(max_examples=200, deadline=None)
@given(body=shapes.messages(), parked=st.booleans())
def test_the_letter_of_anything_is_as_the_schemas_say(*, body: bytes, parked: bool) -> None:
    verdict = parse(body, received_at=NOW)
    assume(isinstance(verdict, Rejected))
    assert isinstance(verdict, Rejected)
    given_up = FakeDelivery(body, Properties(message_id="m", headers={contract.TRACEPARENT: "00-1-2-01"}))
    letter = dead_letter(given_up, Failure.of_problems(verdict.problems), verdict.identity, now=NOW, copy_id="c")
    headers = dict(letter.headers or {})
    assert HEADERS_SCHEMA.errors(headers) == []
    assert set(headers) <= set(HEADERS)
    record = read_letter(FakeDelivery(letter.body, Properties(headers=headers, message_id="m")), recorded_at=NOW)
    document = _document([record], {})
    if parked:
        document |= {"body": b"", "status": PARKED}
    assert LETTER.errors(json.loads(dumps(document, json_options=RELAXED_JSON_OPTIONS))) == []
    assert record.status in STATUSES


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_a_letter_of_a_stranger_is_as_the_schema_says(body: bytes) -> None:
    document = _document([read_letter(FakeDelivery(body), recorded_at=NOW)], {})
    assert LETTER.errors(json.loads(dumps(document, json_options=RELAXED_JSON_OPTIONS))) == []


def test_every_header_of_a_dead_letter_is_in_its_schema() -> None:
    assert set(contract.LETTER_HEADERS) <= set(HEADERS)
