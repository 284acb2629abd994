"""The copies the worker makes of a delivery: dead letters, retries, those that wait, and parked letters."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.deliveries import NOW, FakeDelivery, delivery
from worker import __version__, contract
from worker.cim import Identity
from worker.codes import Code, Problem, Stage
from worker.dead_letters.envelope import carried_headers, dead_letter, parked_copy, retry_copy, waiting_copy
from worker.dead_letters.provenance import attempt_of, published_by, strip_reserved_headers
from worker.failure import Failure
from worker.ports import Outgoing, Properties
from worker.rabbit.fitting import fit
from worker.rabbit.frames import HEADER_FRAME_OVERHEAD
from worker.rabbit.properties import decode_properties, encode_properties

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEMS = (
    Problem(Code.WRONG_TYPE, "/header/timestamp", "A number."),
    Problem(Code.MISSING_BODY, "/body", Code.MISSING_BODY.spec.meaning),
)
REASON = Failure.of_problems(PROBLEMS)
WHO = Identity("sender-1", "Recorder", "message-1", "conversation-1")
FAILURE = Failure(Code.PUBLISH_REJECTED, Stage.PUBLISH, "No room.", "abcdef012345")


def letter(of: FakeDelivery, reason: Failure = REASON, who: Identity = WHO) -> Outgoing:
    return dead_letter(of, reason, who, now=NOW, copy_id="made-up")


def retried(of: FakeDelivery, *, attempt: int = 2, now: int = NOW) -> Outgoing:
    return retry_copy(of, FAILURE, "10s", attempt=attempt, now=now, copy_id="made-up")


def waiting(of: FakeDelivery, *, now: int = NOW) -> Outgoing:
    return waiting_copy(of, FAILURE, now=now, copy_id="made-up")


def encoded(copy: Outgoing, headers: Mapping[str, str | int]) -> bytes:
    return encode_properties(
        message_id=copy.message_id,
        correlation_id=copy.correlation_id,
        headers=headers,
        content_type=copy.content_type,
        content_encoding=copy.content_encoding,
        timestamp=copy.timestamp,
        type_=copy.type,
        app_id=copy.app_id,
    )


def over_the_wire(copy: Outgoing, exchange: str = "", queue: str = "cim.ingress") -> FakeDelivery:
    """Return the delivery that a copy becomes, through our own encoder and decoder."""
    properties = decode_properties(encoded(copy, headers(copy)))
    assert not properties.damaged
    return FakeDelivery(copy.body, properties, exchange, "cim.ingress", queue)


def headers(copy: Outgoing) -> Mapping[str, str | int]:
    assert copy.headers is not None
    return copy.headers


def test_a_dead_letter_carries_every_header_of_the_contract() -> None:
    copy = letter(delivery(b"bytes", {contract.ATTEMPT: 3}))
    assert (copy.exchange, copy.routing_key, copy.body) == ("cim.dead-letters", "", b"bytes")
    assert headers(copy) == {
        "cim-code": "wrong_type",
        "cim-class": "invalid",
        "cim-stage": "validate",
        "cim-pointer": "/header/timestamp",
        "cim-detail": "A number.",
        "cim-problems": json.dumps(
            [{"code": p.code.value, "pointer": p.pointer, "expected": p.expected} for p in PROBLEMS],
            separators=(",", ":"),
        ),
        "cim-fingerprint": REASON.fingerprint,
        "cim-attempt": 3,
        "cim-first-failed-at": NOW,
        "cim-failed-at": NOW,
        "cim-origin-exchange": "cim.ingress",
        "cim-origin-routing-key": "some.key",
        "cim-origin-queue": "cim.ingress",
        "cim-sender-id": "sender-1",
        "cim-sender-name": "Recorder",
        "cim-message-id": "message-1",
        "cim-conversation-id": "conversation-1",
        "cim-worker-version": __version__,
    }
    assert set(headers(copy)) == set(contract.LETTER_HEADERS)


def test_what_is_not_known_of_the_sender_has_no_header() -> None:
    copy = letter(delivery(), who=Identity())
    unknown = {contract.SENDER_ID, contract.SENDER_NAME, contract.MESSAGE_ID, contract.CONVERSATION_ID}
    assert set(headers(copy)) == set(contract.LETTER_HEADERS) - unknown


def test_a_failure_of_the_way_is_its_own_only_problem() -> None:
    copy = letter(delivery(), FAILURE)
    assert json.loads(str(headers(copy)[contract.PROBLEMS])) == [
        {"code": "publish_rejected", "pointer": "", "expected": "No room."}
    ]
    assert headers(copy)[contract.FINGERPRINT] == "abcdef012345"


SHORT_STRINGS = ("content_type", "content_encoding", "correlation_id", "message_id", "type", "user_id", "app_id")
EVERY_PROPERTY: dict[str, Any] = {
    "content_type": "text/x",
    "content_encoding": "gzip",
    "delivery_mode": 1,
    "priority": 9,
    "correlation_id": "corr",
    "reply_to": "elsewhere",
    "expiration": "1",
    "message_id": "amqp-id",
    "timestamp": 5,
    "type": "kind",
    "user_id": "alice",
    "app_id": "recorder",
}


@pytest.mark.parametrize("kind", ["dead", "retry", "waiting", "parked"])
def test_only_harmless_properties_are_copied(kind: str) -> None:
    assert {one.name for one in fields(Properties)} == {*EVERY_PROPERTY, "headers", "damaged"}, "a new one: decide"
    hostile = {"CC": ["elsewhere"], "BCC": ["elsewhere"], "x-death": [], "x-delay": 5, "other": "mine"}
    of = delivery(b"{}", hostile, **EVERY_PROPERTY)
    copies = {"dead": letter(of), "retry": retried(of), "waiting": waiting(of)}
    copy = copies.get(kind) or parked_copy(of, copy_id="made-up")
    kept = ("content_type", "content_encoding", "correlation_id", "message_id", "timestamp", "type", "app_id")
    for name in kept:
        assert getattr(copy, name) == EVERY_PROPERTY[name]
    assert set(Outgoing._fields) == {*kept, "exchange", "routing_key", "body", "headers", "reply_to"}
    assert copy.reply_to is None, "receipts are for the message, and a letter is none"
    assert not set(headers(copy)) & set(hostile)


def test_a_delivery_without_an_id_gets_one_because_returns_are_matched_by_it() -> None:
    assert letter(delivery()).message_id == "made-up"
    assert letter(delivery(message_id="")).message_id == "made-up"


@pytest.mark.parametrize("kind", ["dead", "retry", "waiting", "parked"])
def test_every_copy_keeps_the_idempotency_key_without_which_it_would_be_another_message(kind: str) -> None:
    of = delivery(b"{}", {contract.IDEMPOTENCY_KEY: "call-77"})
    copies = {"dead": letter(of), "retry": retried(of), "waiting": waiting(of)}
    copy = copies.get(kind) or parked_copy(of, copy_id="made-up")
    assert headers(copy)[contract.IDEMPOTENCY_KEY] == "call-77"


def test_a_strangers_idempotency_key_is_not_stripped() -> None:
    of = delivery(b"{}", {contract.IDEMPOTENCY_KEY: "call-77"})
    strip_reserved_headers(of, {"worker"})
    assert of.properties.headers == {contract.IDEMPOTENCY_KEY: "call-77"}


def test_where_the_receipt_goes_is_kept_until_the_final_outcome_and_a_strangers_word_for_it_is_not() -> None:
    of = delivery(b"{}", {contract.RECEIPTS: "all", contract.REPLY_TO: "cim.ingress"}, user_id="alice", reply_to="mine")
    strip_reserved_headers(of, {"worker"})
    retry = over_the_wire(retried(of))
    assert (retry.properties.headers[contract.REPLY_TO], retry.properties.reply_to) == ("mine", None)
    waited = headers(waiting(retry))
    assert (waited[contract.REPLY_TO], waited[contract.RECEIPTS]) == ("mine", "all")
    assert contract.REPLY_TO not in headers(letter(retry)), "the outcome dead is final"


def test_every_copy_of_a_replay_says_what_it_is_a_replay_of() -> None:
    of = delivery(b"{}", {contract.REPLAY_OF: "0123456789abcdef01234567", contract.REPLAY_JOB: "job-1"})
    for copy in (retried(of), waiting(of), letter(of)):
        assert (headers(copy)[contract.REPLAY_OF], headers(copy)[contract.REPLAY_JOB]) == (
            "0123456789abcdef01234567",
            "job-1",
        )


def test_a_retry_counts_names_its_tier_and_says_why() -> None:
    copy = retried(delivery(b"body"))
    assert (copy.exchange, copy.routing_key, copy.body) == ("", "cim.ingress.retry.10s", b"body")
    assert headers(copy)[contract.ATTEMPT] == 2
    assert headers(copy)[contract.CODE] == "publish_rejected"
    assert contract.WORKER_VERSION not in headers(copy), "only letters carry it: by it they are told from retries"


def test_waiting_spends_no_attempt_and_remembers_where_the_message_entered() -> None:
    copy = waiting(delivery(b"body", message_id="m", user_id="alice"))
    assert (copy.exchange, copy.routing_key, copy.body) == ("", "cim.ingress.waiting", b"body")
    assert headers(copy)[contract.ATTEMPT] == 1
    second_try = over_the_wire(retried(delivery(b"body", message_id="m", user_id="alice"), attempt=2))
    waited = over_the_wire(waiting(second_try, now=NOW + 1000), queue="cim.ingress.waiting")
    assert attempt_of(waited) == 2
    assert published_by(waited) == "alice"
    again = headers(waiting(waited, now=NOW + 2000))
    assert again[contract.ATTEMPT] == 2
    assert (again[contract.FIRST_FAILED_AT], again[contract.FAILED_AT]) == (NOW, NOW + 2000)
    assert (again[contract.ORIGIN_EXCHANGE], again[contract.ORIGIN_ROUTING_KEY]) == ("cim.ingress", "some.key")
    assert again[contract.ORIGIN_QUEUE] == "cim.ingress"


def test_origin_first_failure_and_user_survive_any_number_of_retries() -> None:
    first = delivery(b"body", {"traceparent": "00-abc"}, user_id="alice", message_id="m")
    again = over_the_wire(retried(first, attempt=2, now=NOW))
    third = over_the_wire(retried(again, attempt=3, now=NOW + 1000))
    last = letter(third)
    assert attempt_of(third) == 3
    assert published_by(third) == "alice"
    found = headers(dead_letter(third, REASON, WHO, now=NOW + 2000, copy_id="x"))
    assert found[contract.FIRST_FAILED_AT] == NOW
    assert found[contract.FAILED_AT] == NOW + 2000
    assert found[contract.ORIGIN_EXCHANGE] == "cim.ingress"
    assert found[contract.ORIGIN_ROUTING_KEY] == "some.key"
    assert found["traceparent"] == "00-abc"
    assert found[contract.USER_ID] == "alice"
    assert (last.body, last.message_id) == (b"body", "m")


@pytest.mark.parametrize("nonsense", [0, -1, 10**7, True, "3", None, 2.0, [2], 2**70])
def test_a_nonsense_attempt_counts_as_the_first(nonsense: object) -> None:
    assert attempt_of(delivery(headers={contract.ATTEMPT: nonsense})) == 1


def test_trace_and_checked_user_go_into_everything_made_of_a_delivery() -> None:
    of = delivery(headers={"traceparent": "00-a", "tracestate": "v=1", "other": "x"}, user_id="alice")
    assert carried_headers(of) == {"traceparent": "00-a", "tracestate": "v=1", "cim-user-id": "alice"}
    assert carried_headers(delivery(headers={"traceparent": 7, "cim-user-id": "forged"})) == {}


anything = st.recursive(
    st.text(max_size=3000) | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from([*contract.LETTER_HEADERS, "traceparent", contract.USER_ID]), anything),
    st.text(max_size=2000),
)
def test_whatever_a_stranger_puts_under_our_names_every_copy_can_be_written_and_is_small(
    hostile: dict[str, Any], text: str
) -> None:
    of = delivery(b"{}", hostile, message_id="m")
    long_reason = Failure.of_problems(tuple(Problem(Code.WRONG_TYPE, "/" + text, text) for _ in range(20)))
    for copy in (
        letter(of, long_reason, Identity(text, text, text, text)),
        retried(of),
        waiting(of),
        parked_copy(of, copy_id="x"),
    ):
        raw = encode_properties(message_id=copy.message_id, headers=copy.headers)
        assert len(raw) < 24 * 1024
        assert not decode_properties(raw).damaged


@given(
    st.dictionaries(
        st.sampled_from([*contract.LETTER_HEADERS, "traceparent", "tracestate", contract.USER_ID]), anything
    ),
    st.text(min_size=100, max_size=2000),
)
def test_every_copy_fits_the_smallest_frame_there_is_and_keeps_its_reason(hostile: dict[str, Any], text: str) -> None:
    of = delivery(b"{}", hostile, **dict.fromkeys(SHORT_STRINGS, text))
    long_reason = Failure.of_problems(tuple(Problem(Code.WRONG_TYPE, "/" + text, text) for _ in range(20)))
    who = Identity(text, text, text, text)
    for copy in (letter(of, long_reason, who), retried(of), waiting(of), parked_copy(of, copy_id="x")):
        raw = fit(partial(encoded, copy), headers(copy), 4096 - HEADER_FRAME_OVERHEAD)
        assert len(raw) <= 4096 - HEADER_FRAME_OVERHEAD
        found = decode_properties(raw)
        assert not found.damaged
        for name in (contract.CODE, contract.ATTEMPT):
            assert found.headers.get(name) == headers(copy).get(name)


def test_fewer_problems_go_before_shorter_texts_and_those_before_none() -> None:
    problems = tuple(Problem(Code.WRONG_TYPE, f"/{number}" + "p" * 300, "e" * 300) for number in range(20))
    copy = letter(delivery(), Failure.of_problems(problems))
    left = []
    for limit in range(8000, 400, -200):
        found = decode_properties(fit(partial(encoded, copy), headers(copy), limit)).headers
        listed = json.loads(found.get(contract.PROBLEMS, "[]"))
        left.append((len(listed), len(listed[0]["pointer"]) if listed else 0))
    assert left == sorted(left, reverse=True)
    assert left[0][0] > 5
    assert {pointer for count, pointer in left if count > 1} == {302}
    assert (1, 302) in left
    assert (1, 64) in left
    assert left[-1] == (0, 0)


def test_the_list_of_problems_stays_json_when_it_is_cut() -> None:
    problems = tuple(Problem(Code.WRONG_TYPE, f"/{'ä' * 300}/{number}", "x" * 900) for number in range(20))
    listed = json.loads(str(headers(letter(delivery(), Failure.of_problems(problems)))[contract.PROBLEMS]))
    assert 1 <= len(listed) < 20
    assert listed[0]["pointer"].startswith("/ää")


def test_no_byte_of_the_body_is_in_any_header() -> None:
    of = delivery(b'{"secret": "hunter2"}')
    assert "hunter2" not in json.dumps([dict(headers(letter(of))), dict(headers(retried(of)))])


def test_a_parked_letter_keeps_its_reasons() -> None:
    dead = over_the_wire(letter(delivery(b"huge")), queue="cim.dead-letters")
    parked = parked_copy(dead, copy_id="x")
    assert (parked.exchange, parked.routing_key, parked.body) == ("", "cim.dead-letters.parked", b"huge")
    assert headers(parked) == headers(letter(delivery(b"huge")))


def test_a_reason_says_the_same_for_the_same_cause() -> None:
    assert Failure.of_problems(PROBLEMS) == REASON
    assert replace(REASON, detail="") != REASON
    assert Failure.of_problems((Problem(Code.WRONG_TYPE, "/header/other", ""),)).fingerprint != REASON.fingerprint
