"""The AsyncAPI document is valid, complete, and says what the broker really gets."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from tests.documentation import ROOT
from tests.support.deliveries import FakeDelivery
from worker import contract
from worker.codes import Code
from worker.dead_letters.envelope import carried_headers, retry_copy, waiting_copy
from worker.failure import Failure
from worker.ports import Properties
from worker.rabbit.topology import wanted
from worker.schemas.asyncapi import WHOLE, asyncapi
from worker.schemas.pages import contract_page, reasons_page
from worker.settings import Settings, delay_seconds

DOCUMENT = asyncapi()
OFFICIAL = Draft7Validator(json.loads((Path(__file__).parents[1] / "asyncapi" / "asyncapi-3.0.0.json").read_bytes()))
MESSAGES = DOCUMENT["components"]["messages"]
DEFAULTS = Settings.model_construct()
TOPOLOGY = wanted(
    tuple((delay, delay_seconds(delay)) for delay in DEFAULTS.retry_delays), DEFAULTS.delivery_limit, (4, 0)
)


def test_it_is_what_asyncapi_says() -> None:
    assert [f"{error.json_path}: {error.message[:200]}" for error in OFFICIAL.iter_errors(DOCUMENT)] == []


def test_the_judge_finds_a_mistake() -> None:
    spoilt = copy.deepcopy(DOCUMENT)
    spoilt["operations"]["sendEvent"]["action"] = "swallow"
    assert not OFFICIAL.is_valid(spoilt)


def test_every_exchange_and_queue_is_in_it_as_it_is_declared() -> None:
    bindings = {
        name: channel["bindings"]["amqp"] for name, channel in DOCUMENT["channels"].items() if name != "receipts"
    }
    for exchange in TOPOLOGY.exchanges:
        assert bindings[f"exchange.{exchange.name}"]["exchange"]["type"] == exchange.type
    for queue in TOPOLOGY.queues:
        binding = bindings[f"queue.{queue.name}"]
        assert binding["x-arguments"] == queue.arguments
        assert [one["exchange"] for one in binding.get("x-bound-to", ())] == [*queue.bound_to]


def test_every_header_of_ours_is_in_it() -> None:
    headers = {value for name, value in vars(contract).items() if name.isupper() and str(value).startswith("cim-")}
    text = json.dumps(DOCUMENT)
    assert {one for one in headers - {contract.APP_ID, contract.PUBLISH} if f'"{one}"' not in text} == set()


def headers_of(message: str) -> set[str]:
    return set(MESSAGES[message]["headers"]["properties"])


def test_copies_and_events_have_no_other_headers_than_those_in_it() -> None:
    headers = dict.fromkeys(headers_of("activityAgain"), "a") | {
        contract.ORIGIN_QUEUE: "cim.ingress",
        contract.FAILED_AT: 1,
        contract.REFUSED: 1,
        "x-foreign": "b",
    }
    came = FakeDelivery(properties=Properties(headers=headers, reply_to="cim.receipts.a"))
    failure = Failure.of(Code.UNEXPECTED_ERROR)
    again = retry_copy(came, failure, "1s", attempt=2, now=1, copy_id="c")
    waiting = waiting_copy(came, failure, now=1, copy_id="c", suspected=True)
    assert {*(again.headers or {}), *(waiting.headers or {})} <= headers_of("activityAgain")
    assert contract.SUSPECTED_AT in (waiting.headers or {})
    assert set(carried_headers(came)) == headers_of("event")


def resolve(reference: str) -> Any:
    place: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        place = place[part]
    return place


def test_every_reference_leads_somewhere() -> None:
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT))
    assert len(references) > 100
    assert [one for one in references if not resolve(one)] == []


@pytest.mark.parametrize("name", [name for name, message in MESSAGES.items() if "examples" in message])
def test_the_examples_of_a_message_are_valid_by_our_own_schemas(name: str) -> None:
    message = MESSAGES[name]
    for example in message["examples"]:
        for part in ("payload", "headers"):
            if part in example:
                schema = WHOLE[message[part]["$ref"].rpartition("/")[2]]()
                assert [*Draft202012Validator(schema).iter_errors(example[part])] == []


@pytest.mark.parametrize("page", [contract_page, reasons_page])
def test_a_page_asks_for_nothing_and_its_links_lead_somewhere(page: Any) -> None:
    text = page()
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert links
    assert [one for one in links if one.startswith("#") and one[1:] not in ids] == []
    assert [one for one in links if not one.startswith("#") and not (ROOT / "schemas" / one).is_file()] == []
    assert not re.search(r"@import|url\(|<script|<link", text)
    assert len(set(ids)) == len(ids)


def test_the_page_shows_every_channel_message_and_schema() -> None:
    text = contract_page()
    for name, channel in DOCUMENT["channels"].items():
        assert name == "receipts" or f"<code>{channel['title']}</code>" in text
    assert [name for name in MESSAGES if f'id="message-{name}"' not in text] == []
    assert [name for name in DOCUMENT["components"]["schemas"] if f'id="schema-{name}"' not in text] == []
