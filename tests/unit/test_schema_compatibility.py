"""What was published stays true: publishers' messages stay valid, and readers find what they found.

The rule, for documents of one major version: what the worker reads (messages, lifecycle events) may only be taken more
widely; what it writes may only get more fields. Codes, channels and headers are never taken away. The last released
documents are in `schemas/released/`. `REFUSED_SINCE` has the exceptions, place by place: what would harm others.
"""

from __future__ import annotations

import copy
import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.documentation import ROOT
from tests.support.examples import judge
from tests.support.from_schema import Schema
from tests.support.schema_compatibility import losses, rules_of
from worker.cim import Rejected
from worker.codes import Code
from worker.schemas import SCHEMAS, VERSION, Published
from worker.schemas.asyncapi import asyncapi
from worker.schemas.reasons import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

RELEASED = ROOT / "schemas" / "released"


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


LAST = max((folder.name for folder in RELEASED.iterdir()), key=number)
OF_PUBLISHERS = {"CimMessage", "Sender"}
"""Parts of an event that are as the publisher sent them, and so as open as a message."""
REFUSED_SINCE = {
    "lifecycle": [  # an id with a control character: the broker strips some, so one conversation could pass for another
        "/conversationId: anyOf",
        "/data/id: anyOf",
        "/data/_id: anyOf",
        "/data/conversationId: anyOf",
        "/data/customerId: anyOf",
        "/data/customer/_id: anyOf",
        "/data/customer/id: anyOf",
        "/data/roomInfo/id: anyOf",
        "/data/channelSession/id: anyOf",
        "/data/participants[]/participant: if",
        "/data/participants[]/participant: then",
    ]
}
IS_SAME_MAJOR = number(VERSION)[0] == number(LAST)[0]
CURRENT = {one.name: one.make() for one in SCHEMAS}
HINT = (
    f"no longer compatible with {LAST} in schemas/released: keep it so, or raise the first number of VERSION in "
    "worker/schemas/generate.py"
)


def released(file: str) -> Any:
    return json.loads((RELEASED / LAST / file).read_bytes())


def lost(document: Published, before: Any, now: Any) -> list[str]:
    """Return what is no longer compatible."""
    return losses(before, now) if document.is_input else losses(now, before, apart_from=OF_PUBLISHERS)


@pytest.mark.parametrize("document", SCHEMAS, ids=lambda one: one.name)
def test_it_is_compatible_with_the_last_release(document: Published) -> None:
    harmful = REFUSED_SINCE.get(document.name, [])
    assert not IS_SAME_MAJOR or lost(document, released(document.file), CURRENT[document.name]) == harmful, HINT


def test_what_differs_from_the_last_release_has_a_higher_version() -> None:
    is_same = all(rules_of(released(one.file)) == rules_of(CURRENT[one.name]) for one in SCHEMAS)
    assert number(VERSION) > number(LAST) or (VERSION == LAST and is_same), f"raise VERSION: {LAST} is released"


def test_the_worker_takes_every_message_of_the_last_release() -> None:
    schema = Schema(released("message.schema.json"))
    made = [schema.make(Random(seed)) for seed in range(300 if IS_SAME_MAJOR else 0)]
    refused = [verdict for verdict in map(judge, made) if isinstance(verdict, Rejected)]
    assert [one for one in refused if {problem.code for problem in one.problems} != {Code.ID_TOO_LONG}] == []


def test_no_reason_of_the_last_release_is_gone_or_means_something_else() -> None:
    known = {one["code"]: (one["class"], one["stage"]) for one in catalogue()["reasons"]}
    before = {one["code"]: (one["class"], one["stage"]) for one in released("reasons.json")["reasons"]}
    assert not IS_SAME_MAJOR or {code: known.get(code) for code in before} == before, HINT


def test_no_channel_and_no_header_of_the_last_release_is_gone() -> None:
    before, now = released("asyncapi.json"), asyncapi()
    assert not IS_SAME_MAJOR or [name for name in _promises(before) if name not in _promises(now)] == [], HINT


def _promises(document: Any) -> list[tuple[str, ...]]:
    channels = [
        (name, str(channel["address"]), channel.get("bindings", {}).get("amqp", {}).get("exchange", {}).get("type"))
        for name, channel in document["channels"].items()
    ]
    headers = [
        (name, header)
        for name, message in document["components"]["messages"].items()
        for header in message.get("headers", {}).get("properties", ())
    ]
    return [*channels, *headers]


def sabotage(*path: str, to: Any = ...) -> Callable[[Any], None]:
    def change(schema: Any) -> None:
        place = schema
        for part in path[:-1]:
            place = place[part]
        if to is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = to(place.get(path[-1])) if callable(to) else to

    return change


MESSAGE, EVENT, RECEIPT = "message", "event", "receipt"
NO_LONGER_COMPATIBLE = {
    "a field of a message becomes mandatory": (MESSAGE, sabotage("required", to=["header", "body", "id"])),
    "a field of a body becomes mandatory": (MESSAGE, sabotage("$defs", "Email", "required", to=["type", "subject"])),
    "a field takes fewer types": (MESSAGE, sabotage("$defs", "Header", "properties", "intent", to={"type": "string"})),
    "a field takes fewer values": (
        MESSAGE,
        sabotage("$defs", "DeliveryNotification", "properties", "status", "enum", to=["READ"]),
    ),
    "a field called like a keyword takes fewer types": (
        MESSAGE,
        sabotage("$defs", "ButtonItem", "properties", "title", "type", to="integer"),
    ),
    "an open field gets a type": (
        MESSAGE,
        sabotage("$defs", "Header", "properties", "wholly_new", to={"type": "integer"}),
    ),
    "an open body type gets rules": (
        MESSAGE,
        sabotage("$defs", "AnyBody", "allOf", to=lambda rules: [*rules, condition("LOAN_STEP")]),
    ),
    "objects are closed": (MESSAGE, sabotage("$defs", "Customer", "additionalProperties", to=False)),
    "ids are shorter": (MESSAGE, sabotage("$defs", "PlaceId", "maxLength", to=100)),
    "a form of a time is gone": (MESSAGE, sabotage("$defs", "Timestamp", "anyOf", to=lambda forms: forms[:-1])),
    "an anchor no longer counts": (MESSAGE, sabotage("$defs", "Header", "anyOf", to=lambda anchors: anchors[1:])),
    "a pattern is another": (
        MESSAGE,
        sabotage("$defs", "Body", "properties", "type", to={"type": "string", "pattern": "^[A-Z]"}),
    ),
    "a field of a receipt is gone": (RECEIPT, sabotage("properties", "reason")),
    "a field of a receipt may be missing": (RECEIPT, sabotage("required", to=lambda names: names[1:])),
    "a field of a receipt has another type": (RECEIPT, sabotage("properties", "at", to={"type": "string"})),
    "a field of an event may be null": (EVENT, sabotage("properties", "conversationId", "type", to=["string", "null"])),
    "an event no longer promises text": (
        EVENT,
        sabotage("properties", "data", "properties", "header", "properties", "timestamp", to={"type": "number"}),
    ),
}
STILL_COMPATIBLE = {
    "a field of a message takes more types": (MESSAGE, sabotage("$defs", "Header", "properties", "intent", to={})),
    "a field of a body is no longer mandatory": (MESSAGE, sabotage("$defs", "Url", "required", to=["type"])),
    "ids are longer": (MESSAGE, sabotage("$defs", "PlaceId", "anyOf", to=lambda forms: [*forms, {"maxLength": 400}])),
    "a receipt has one more field": (RECEIPT, sabotage("properties", "wholly_new", to={"type": "string"})),
    "a receipt knows one more outcome": (
        RECEIPT,
        sabotage("properties", "outcome", "anyOf", to=[{"enum": ["published", "lost"]}, {"type": "string"}]),
    ),
}


def condition(body_type: str) -> Any:
    return {
        "if": {"required": ["type"], "properties": {"type": {"enum": [body_type]}}},
        "then": {"required": ["stepCode"]},
    }


def changed(name: str, change: Callable[[Any], None]) -> tuple[Published, Any]:
    document = next(one for one in SCHEMAS if one.name == name)
    schema = copy.deepcopy(CURRENT[name])
    change(schema)
    assert schema != CURRENT[name]
    return document, schema


@pytest.mark.parametrize("what", NO_LONGER_COMPATIBLE)
def test_a_change_that_breaks_somebody_is_found(what: str) -> None:
    document, schema = changed(*NO_LONGER_COMPATIBLE[what])
    assert lost(document, CURRENT[document.name], schema)


@pytest.mark.parametrize("what", STILL_COMPATIBLE)
def test_a_change_that_breaks_nobody_may_be_made(what: str) -> None:
    document, schema = changed(*STILL_COMPATIBLE[what])
    assert lost(document, CURRENT[document.name], schema) == []


@pytest.mark.parametrize("document", SCHEMAS, ids=lambda one: one.name)
def test_a_schema_is_compatible_with_itself(document: Published) -> None:
    assert lost(document, CURRENT[document.name], CURRENT[document.name]) == []
