"""Letters of ours, of the broker and of strangers, read into records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.deliveries import NOW, FakeDelivery, delivery
from tests.support.examples import document, raw
from tests.unit.test_envelope import PROBLEMS, REASON, WHO, over_the_wire
from worker import __version__, contract
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.letter import LetterProblem, LetterRecord
from worker.dead_letters.reading import read_letter

RECORDED = NOW + 60_000


def read(one: FakeDelivery) -> LetterRecord:
    return read_letter(one, recorded_at=RECORDED)


def in_the_queue(body: bytes = b"bytes", **properties: Any) -> FakeDelivery:
    """Return one of our letters as it comes out of the dead-letter queue."""
    headers = {"traceparent": "00-t", **properties.pop("headers", {})}
    copy = dead_letter(delivery(body, headers, **properties), REASON, WHO, now=NOW, copy_id="made-up")
    return over_the_wire(copy, exchange="cim.dead-letters", queue="cim.dead-letters")


def test_our_own_letter_is_recorded_with_all_it_says() -> None:
    letter = read(in_the_queue(message_id="amqp-1", content_type="application/json"))
    assert (letter.code, letter.failure_class, letter.stage) == ("wrong_type", "invalid", "validate")
    assert (letter.pointer, letter.detail) == ("/header/timestamp", "A number.")
    assert letter.problems == tuple(LetterProblem(p.code.value, p.pointer, p.expected) for p in PROBLEMS)
    assert (letter.fingerprint, letter.attempt) == (REASON.fingerprint, 1)
    assert (letter.first_failed_at, letter.failed_at, letter.recorded_at) == (NOW, NOW, RECORDED)
    assert (letter.origin_exchange, letter.origin_routing_key, letter.origin_queue) == (
        "cim.ingress",
        "some.key",
        "cim.ingress",
    )
    assert (letter.sender_id, letter.sender_name) == ("sender-1", "Recorder")
    assert (letter.message_id, letter.conversation_id) == ("message-1", "conversation-1")
    assert (letter.worker_version, letter.traceparent, letter.status) == (__version__, "00-t", "open")
    assert letter.body == b"bytes"
    assert dict(letter.properties) == {"message_id": "amqp-1", "content_type": "application/json"}
    assert dict(letter.headers)["cim-code"] == "wrong_type"


def test_letters_of_one_content_are_one_record_and_what_is_another_problem_is_another() -> None:
    one = in_the_queue(message_id="amqp-1")
    later = in_the_queue(message_id="amqp-2")
    later.properties.headers[contract.FAILED_AT] = NOW + 1
    assert read(one).id == read(one).id == read(later).id

    assert read(one).id != read(in_the_queue(b"other", message_id="amqp-1")).id
    for name in (contract.FINGERPRINT, contract.ORIGIN_QUEUE, contract.USER_ID, contract.REPLAY_OF):
        another = in_the_queue(message_id="amqp-1")
        another.properties.headers[name] = "another"
        assert read(one).id != read(another).id, name


def test_a_letter_was_seen_when_it_died_and_a_strangers_when_it_was_recorded() -> None:
    ours, strangers = read(in_the_queue()), read(delivery(b"bytes"))

    assert (ours.first_seen, ours.last_seen, ours.count) == (NOW, NOW, 1)
    assert (strangers.first_seen, strangers.last_seen, strangers.count) == (RECORDED, RECORDED, 1)


def death(reason: str, **more: Any) -> dict[str, Any]:
    """Return an entry of `x-death` as RabbitMQ 3.10 and 4.x write it (times in seconds)."""
    return {
        "count": 1,
        "reason": reason,
        "queue": "cim.ingress",
        "time": NOW // 1000,
        "exchange": "cim.ingress",
        "routing-keys": ["loan.step"],
        **more,
    }


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("delivery_limit", "delivery_limit"),
        ("expired", "broker_expired"),
        ("maxlen", "broker_maxlen"),
        ("rejected", "broker_rejected"),
        ("something new", "foreign_letter"),
    ],
)
def test_a_letter_of_the_broker_has_the_brokers_reason(reason: str, code: str) -> None:
    letter = read(delivery(raw("loan_step"), {"x-death": [death(reason)]}, message_id="m"))
    assert letter.code == code
    assert letter.detail
    assert letter.fingerprint
    assert letter.failed_at == NOW
    assert (letter.origin_exchange, letter.origin_routing_key, letter.origin_queue) == (
        "cim.ingress",
        "loan.step",
        "cim.ingress",
    )
    sent = document("loan_step")
    assert (letter.message_id, letter.sender_id) == (sent["id"], sent["header"]["sender"]["id"])


def test_the_newest_death_counts() -> None:
    deaths = [death("delivery_limit"), death("expired", queue="cim.ingress.retry.1s", exchange="")]
    letter = read(delivery(b"{}", {"x-death": deaths, contract.ATTEMPT: 2}))
    assert (letter.code, letter.origin_queue, letter.attempt) == ("delivery_limit", "cim.ingress", 2)


def test_the_short_form_of_newer_brokers_is_understood() -> None:
    headers = {
        "x-first-death-reason": "expired",
        "x-first-death-queue": "cim.ingress.retry.1s",
        "x-first-death-exchange": "",
        "x-last-death-reason": "delivery_limit",
        "x-last-death-queue": "cim.ingress",
        "x-last-death-exchange": "cim.ingress",
    }
    letter = read(delivery(b"{}", headers))
    assert (letter.code, letter.origin_queue, letter.origin_exchange) == (
        "delivery_limit",
        "cim.ingress",
        "cim.ingress",
    )
    first_only = {key: value for key, value in headers.items() if key.startswith("x-first")}
    assert read(delivery(b"{}", first_only)).code == "broker_expired"


def test_a_letter_that_died_in_the_waiting_room_or_a_retry_tier_came_from_where_its_copy_says() -> None:
    origin = {
        contract.ORIGIN_EXCHANGE: "cim.ingress",
        contract.ORIGIN_ROUTING_KEY: "loan.step",
        contract.ORIGIN_QUEUE: "cim.ingress",
        contract.USER_ID: "publisher",
    }
    for queue in ("cim.ingress.waiting", "cim.ingress.retry.10s"):
        copy = delivery(
            b"{}", {**origin, "x-death": [death("delivery_limit", queue=queue, exchange="")]}, user_id="worker"
        )
        letter = read_letter(copy, recorded_at=RECORDED, trusted={"worker"})
        assert (letter.origin_exchange, letter.origin_routing_key) == ("cim.ingress", "loan.step")
        assert (letter.origin_queue, letter.user_id) == ("cim.ingress", "publisher")

        strangers = read_letter(copy, recorded_at=RECORDED, trusted={"somebody else"})
        assert (strangers.origin_queue, strangers.user_id) == (queue, "worker")


def test_a_letter_that_a_stranger_wrote_in_our_name_is_a_strangers_letter() -> None:
    forged = in_the_queue(headers={contract.USER_ID: "victim", contract.REPLAY_OF: "0" * 24}, user_id="stranger")
    forged.properties.user_id = "stranger"
    assert read_letter(forged, recorded_at=RECORDED, trusted={"stranger"}).code == "wrong_type"

    letter = read_letter(forged, recorded_at=RECORDED, trusted={"worker"})
    assert (letter.code, letter.user_id, letter.replay_of) == ("foreign_letter", "stranger", "")
    assert dict(letter.headers)["cim-code"] == "wrong_type"


def test_a_letter_knows_customer_key_and_what_it_is_a_replay_of() -> None:
    sent = document("loan_step")
    of = {contract.REPLAY_OF: "a" * 24, contract.REPLAY_JOB: "job", contract.IDEMPOTENCY_KEY: "key"}
    letter = read(in_the_queue(raw("loan_step"), headers=of))
    assert letter.customer_id == sent["header"]["customer"]["_id"]
    assert (letter.replay_of, letter.replay_job, letter.idempotency_key) == ("a" * 24, "job", "key")


def test_a_message_the_broker_gave_up_is_the_brokers_letter_whatever_it_claims() -> None:
    claims = {contract.CODE: "wrong_type", contract.WORKER_VERSION: "1.0", "x-death": [death("delivery_limit")]}
    assert read(delivery(b"{}", claims)).code == "delivery_limit"


def test_a_retry_that_was_given_up_by_the_broker_is_not_taken_for_a_letter_of_ours() -> None:
    assert read(delivery(b"{}", {contract.CODE: "publish_rejected", contract.ATTEMPT: 3})).code == "foreign_letter"


def test_a_strangers_letter_is_kept_with_what_its_body_tells() -> None:
    letter = read(FakeDelivery(raw("loan_step"), exchange="cim.dead-letters", routing_key="by.hand"))
    assert (letter.code, letter.failure_class) == ("foreign_letter", "unknown")
    assert (letter.origin_exchange, letter.origin_routing_key) == ("cim.dead-letters", "by.hand")
    assert letter.sender_id
    assert letter.body == raw("loan_step")
    assert letter.failed_at is None


def test_a_strangers_letter_that_is_no_message_is_kept_all_the_same() -> None:
    letter = read(delivery(b"\xff\x00not json"))
    assert (letter.code, letter.sender_id, letter.body) == ("foreign_letter", "", b"\xff\x00not json")


def test_many_and_long_headers_are_bounded() -> None:
    letter = read(delivery(b"{}", {f"h{number}": "x" * 9999 for number in range(500)}))
    assert len(letter.headers) == 100
    assert {len(value) for _, value in letter.headers} == {2048}


anything = st.recursive(
    st.text(max_size=20) | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([*contract.LETTER_HEADERS, "traceparent", "x-death", "x-last-death-reason"]) | st.text(
    max_size=9
)
deaths = st.lists(st.dictionaries(st.sampled_from(sorted(death(""))), anything), max_size=2)


@given(st.binary(max_size=30), st.dictionaries(names, anything), st.none() | deaths)
def test_no_headers_and_no_body_make_reading_raise(body: bytes, headers: dict[str, Any], of_broker: Any) -> None:
    if of_broker is not None:
        headers = {**headers, "x-death": of_broker}
    letter = read(delivery(body, headers))
    assert letter.body == body
    assert letter.code
    assert LetterRecord.from_document(letter.to_document()) == letter
