"""When two messages are the same activity: however they are written, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.identity.identity import identify
from tests.support.examples import NAMES, document, raw
from worker.cim import CimMessage, parse
from worker.cim.canonical import derived_id, event_id, keyed_event_id
from worker.cim.decode import Decoded, decode

if TYPE_CHECKING:
    import random

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "schemas" / "identity-vectors.json").read_bytes()
)


def identified(body: bytes, key: object = None) -> CimMessage:
    message = parse(body, received_at=1_760_000_000_000, idempotency_key=key)
    assert isinstance(message, CimMessage), message
    return message


def content(body: bytes) -> bytes:
    decoded = decode(body)
    assert isinstance(decoded, Decoded), decoded
    return decoded.content()


# -- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_worker_gives_the_ids_of_the_vectors(vector: dict[str, Any]) -> None:
    body = vector["body"].encode()
    message = identified(body, vector.get("idempotencyKey"))
    assert content(body).decode() == vector["canonicalContent"]
    assert (message.id, message.event_id) == (vector["messageId"], vector["eventId"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_so_does_a_program_that_knows_nothing_of_the_worker(vector: dict[str, Any]) -> None:
    expected = (vector["messageId"], vector["eventId"], vector["canonicalContent"].encode())
    assert identify(vector["body"].encode(), vector.get("idempotencyKey", "")) == expected


# -- properties -------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SPELLED = st.sampled_from(
    ["0", "-0", "1", "1.0", "1.50", "1e3", "1E+3", "1e-7", "123456789012345678", "0.1", "-2.5e-9"]
)
"""Numbers, as a document spells them."""


class Spelled(float):
    """A number that the writer below spells as it was chosen."""

    def __new__(cls, digits: str) -> Self:
        made = super().__new__(cls, digits)
        made.digits = digits
        return made

    digits: str


VALUES = st.recursive(
    st.none() | st.booleans() | SPELLED.map(Spelled) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def written(value: Any, rng: random.Random) -> str:
    """Write a JSON value in one of many ways."""

    def blank() -> str:
        return rng.choice(["", "", " ", "\n", "\t \r\n"])

    if isinstance(value, Spelled):
        return value.digits
    if isinstance(value, dict):
        members = list(value.items())
        rng.shuffle(members)
        inside = [f"{blank()}{written(k, rng)}{blank()}:{blank()}{written(v, rng)}{blank()}" for k, v in members]
        return "{" + (",".join(inside) or blank()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(blank() + written(item, rng) + blank() for item in value) or blank()) + "]"
    if isinstance(value, str):
        return '"' + "".join(_character(one, rng) for one in value) + '"'
    return json.dumps(value)


def _character(one: str, rng: random.Random) -> str:
    if one == "/" and rng.random() < 0.5:
        return "\\/"
    if rng.random() < 0.3:
        units = one.encode("utf-16-be")
        digits = "%04x" if rng.random() < 0.5 else "%04X"
        return "".join("\\u" + digits % int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return json.dumps(one, ensure_ascii=False)[1:-1]


def message_with(value: Any) -> dict[str, Any]:
    header = {"sender": {"id": "app-1", "type": "APP"}, "conversationId": "c-1"}
    return {"id": "m-1", "header": header, "body": {"type": "T", "value": value}}


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_one_message_written_in_many_ways_is_one_activity(value: Any, rng: random.Random) -> None:
    bodies = [written(message_with(value), rng).encode() for _ in range(3)]
    assert len({content(body) for body in bodies}) == 1
    assert len({identified(body).event_id for body in bodies}) == 1


@given(VALUES, VALUES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_other_content_is_another_activity(one: Any, other: Any, rng: random.Random) -> None:
    bodies = [written(message_with(value), rng).encode() for value in (one, other)]
    same = spelled(one) == spelled(other)
    assert (identified(bodies[0]).event_id == identified(bodies[1]).event_id) is same


def spelled(value: Any) -> Any:
    """Return *value* in a form in which 1, 1.0 and true differ, and the order of members does not count."""
    if isinstance(value, dict):
        return frozenset((key, spelled(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return tuple(map(spelled, value))
    return (type(value).__name__, value.digits if isinstance(value, Spelled) else value)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_normalised_does_not_count(name: str) -> None:
    compact = json.dumps(document(name), separators=(",", ":"), ensure_ascii=False).encode()
    as_sent = identify(raw(name), "")
    for body in (raw(name), compact):
        assert (identified(body).id, identified(body).event_id, content(body)) == as_sent


def test_a_message_is_the_same_whenever_it_is_received() -> None:
    body = b'{"header":{"sender":{"id":"s","type":"APP"},"conversationId":"c"},"body":{"type":"T"}}'
    early, late = parse(body, received_at=1), parse(body, received_at=2)
    assert isinstance(early, CimMessage)
    assert isinstance(late, CimMessage)
    assert (early.id, early.event_id) == (late.id, late.event_id)


def test_sender_id_content_and_key_cannot_be_taken_for_each_other() -> None:
    ids = {
        event_id("a", "bc", b"d"),
        event_id("ab", "c", b"d"),
        event_id("a", "b", b"cd"),
        keyed_event_id("a", "bc"),
        keyed_event_id("ab", "c"),
        derived_id(b"abcd"),
    }
    assert len(ids) == 6
