"""Everything that can happen to a batch, with fakes for broker, store and registry."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import FakeDelivery, delivery
from tests.support.eventually import eventually_async
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.codes import Code, Stage
from worker.conversations.conversation import ConversationRecord, ConversationState, Fact
from worker.failure import Failure
from worker.flow import confirmed
from worker.pipeline import pipeline
from worker.pipeline.ports import Written
from worker.pipeline.translate import event_id
from worker.ports import Confirmation, Outgoing, Properties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.pipeline.ports import StoreResult
    from worker.pipeline.translate import Activity

LIVE, CLOSED, UNHEARD_OF = "live-conversation", "closed-conversation", "unheard-of-conversation"
NEVER = Failure(Code.STORE_REJECTED, Stage.STORE, "never", "f1")
PERHAPS = Failure(Code.UNEXPECTED_ERROR, Stage.STORE, "perhaps", "f2")


def record(name: str, state: str, *sessions: str) -> ConversationRecord:
    room = {"id": f"room of {name}", "mode": "CONTACT_CENTER"}
    facts = tuple(Fact({"id": session}, 5) for session in sessions)
    return ConversationRecord(name, Fact(state, 5), Fact(f"customer of {name}", 5), Fact(room, 5), facts)


def pipeline_harness(**options: Any) -> PipelineHarness:
    """Return a harness whose registry knows a live and a closed conversation."""
    made = PipelineHarness(**options)
    made.registry.records = {
        LIVE: record(LIVE, "ACTIVE", "live-session"),
        CLOSED: record(CLOSED, "CLOSED", "closed-session"),
    }
    return made


def message(number: object = 1, text: str = "hello", **header: Any) -> bytes:
    sender = header.pop("sender", "app-1")
    return json.dumps(
        {
            "id": f"m-{number}",
            "header": {"sender": {"id": sender, "type": "APP", "senderName": "App"}, **header},
            "body": {"type": "PLAIN", "markdownText": text},
        }
    ).encode()


def live(number: object = 1, text: str = "hello", **header: Any) -> FakeDelivery:
    return delivery(message(number, text, conversationId=LIVE, **header))


def closed(number: object = 1, text: str = "hello") -> FakeDelivery:
    return delivery(message(number, text, conversationId=CLOSED))


def customers(number: object = 1) -> FakeDelivery:
    return delivery(message(number, customer={"_id": "customer-1"}))


def of_session(name: str, number: object = 1) -> FakeDelivery:
    return delivery(message(number, channelSessionId=name))


# -- published --------------------------------------------------------------------------------------------------------


async def test_a_message_of_a_live_conversation_is_published_and_settled() -> None:
    harness, one = pipeline_harness(), live(7)
    one.properties = Properties(correlation_id="theirs", headers={"traceparent": "00-t"})
    await harness.process(one)
    (event,) = harness.at(LIVE)
    body = json.loads(event.body)
    assert event.message_id == body["id"] == event_id("app-1", "m-7")
    assert (body["name"], body["type"], body["conversationId"]) == ("THIRD_PARTY_ACTIVITY", "ACTIVITY", LIVE)
    assert body["roomInfo"]["id"] == f"room of {LIVE}"
    assert (event.type, event.app_id, event.content_type) == ("THIRD_PARTY_ACTIVITY", "cim-worker", "application/json")
    assert (event.correlation_id, event.timestamp) == ("theirs", harness.clock.now_ms() // 1000)
    assert dict(event.headers or {}) == {"traceparent": "00-t"}
    assert harness.outcomes == {"published": 1}
    harness.assert_settled(one)


async def test_the_message_id_correlates_when_the_publisher_gave_nothing() -> None:
    harness = pipeline_harness()
    await harness.process(live(7))
    assert harness.at(LIVE)[0].correlation_id == "m-7"


async def test_a_conversation_nobody_heard_of_is_tried_live_first() -> None:
    harness = pipeline_harness()
    await harness.process(delivery(message(conversationId=UNHEARD_OF)))
    assert len(harness.at(UNHEARD_OF)) == 1
    assert harness.outcomes == {"published": 1}


async def test_a_session_leads_to_its_conversation() -> None:
    harness = pipeline_harness()
    await harness.process(of_session("live-session", 1), of_session("closed-session", 2))
    assert json.loads(harness.at(LIVE)[0].body)["channelSession"] == {"id": "live-session"}
    assert event_id("app-1", "m-2") in harness.store.digests
    assert harness.outcomes == {"published": 1, "stored": 1}


@pytest.mark.parametrize("state", [*ConversationState, "A_STATE_OF_2031"])
async def test_only_closing_and_closed_conversations_are_not_live(state: str) -> None:
    harness = pipeline_harness()
    harness.registry.records["c"] = record("c", state)
    await harness.process(delivery(message(conversationId="c")))
    assert harness.outcomes == {"stored" if state in {"CLOSING", "CLOSED"} else "published": 1}


# -- stored -----------------------------------------------------------------------------------------------------------


async def test_a_closed_conversation_a_customer_and_an_unknown_session_are_stored() -> None:
    harness = pipeline_harness()
    batch = closed(1), customers(2), of_session("unknown-session", 3)
    await harness.process(*batch)
    assert harness.outcomes == {"stored": 3}
    assert not harness.publisher.taken
    harness.assert_settled(*batch)


async def test_what_the_hub_returns_is_stored_and_the_cache_forgets_the_conversation() -> None:
    harness = pipeline_harness()
    await harness.process(live(1))
    assert harness.cache.by_conversation(LIVE, harness.clock.monotonic())
    harness.publisher.unbound.add(LIVE)
    await harness.process(live(2))
    assert harness.cache.by_conversation(LIVE, harness.clock.monotonic()) is None
    assert event_id("app-1", "m-2") in harness.store.digests
    assert harness.outcomes == {"published": 1, "stored": 1}


async def test_what_the_hub_returns_is_stored_as_the_very_event_that_was_published() -> None:
    harness = pipeline_harness()
    published: list[Outgoing] = []
    stored: list[Activity] = []

    async def unroutable(messages: Sequence[Outgoing]) -> list[Confirmation]:
        published.extend(messages)
        harness.clock.ms += 60_000
        return [Confirmation.RETURNED] * len(messages)

    async def keep(activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        assert now_ms == harness.clock.ms
        stored.extend(activities)
        return [Written.STORED] * len(activities)

    harness.publisher.publish = unroutable
    harness.store.store = keep
    await harness.process(live(1), of_session("live-session", 2), live(3, timestamp=None))
    assert len(published) == 3
    assert [activity.event_bytes() for activity in stored] == [one.body for one in published]


async def test_events_keep_their_order_though_the_registry_was_asked_about_some_only() -> None:
    harness = pipeline_harness()
    harness.registry.records["other"] = record("other", "ACTIVE", "other-session")
    await harness.process(live(1))
    others = [delivery(message(number, conversationId="other")) for number in (2, 4)]
    await harness.process(others[0], live(3), others[1], live(5))
    assert [one.correlation_id for one in harness.publisher.taken] == ["m-1", "m-2", "m-3", "m-4", "m-5"]


async def test_the_same_again_is_a_duplicate_within_a_batch_and_later() -> None:
    harness = pipeline_harness()
    batch = [customers(1), customers(1), customers(1)]
    await harness.process(*batch)
    await harness.process(again := customers(1))
    assert harness.outcomes == {"stored": 1, "duplicate": 3}
    harness.assert_settled(*batch, again)


async def test_the_same_id_with_another_payload_is_a_conflict_and_dead() -> None:
    harness = pipeline_harness()
    await harness.process(closed(1, "first"), closed(1, "second"))
    assert harness.outcomes == {"stored": 1, "dead": 1}
    assert harness.codes == ["payload_conflict"]
    assert b"second" in harness.letters[0].body


async def test_what_the_store_refuses_for_good_is_dead_and_its_neighbours_are_stored() -> None:
    harness = pipeline_harness()
    harness.store.refuses["m-2"] = NEVER
    await harness.process(*(customers(number) for number in range(4)))
    assert harness.outcomes == {"stored": 3, "dead": 1}
    assert harness.codes == ["store_rejected"]


# -- invalid ----------------------------------------------------------------------------------------------------------


async def test_one_bad_message_never_fails_its_neighbours() -> None:
    harness = pipeline_harness()
    bodies = [b"", b"\xff", b"{", b"[]", b"null", b"{}", b"x" * 10_001, b"[" * 5000, b'{"a":NaN}', message("no anchor")]
    bad = [delivery(body) for body in bodies]
    good = [live(number) for number in range(len(bad))]
    batch = [one for pair in zip(bad, good, strict=True) for one in pair]
    await harness.process(*batch)
    assert harness.outcomes == {"dead": len(bad), "published": len(good)}
    assert [one.body for one in harness.letters] == bodies
    assert {*harness.codes} >= {
        "malformed_json",
        "invalid_utf8",
        "not_an_object",
        "message_too_large",
        "missing_anchor",
    }
    harness.assert_settled(*batch)


async def test_a_dead_letter_names_who_sent_what() -> None:
    harness = pipeline_harness()
    await harness.process(delivery(message("7")))
    (who,) = harness.reported.identities
    assert (who.sender_id, who.sender_name, who.message_id) == ("app-1", "App", "m-7")
    assert harness.reported.letters == [("missing_anchor", 1, False)]


@pytest.mark.parametrize("function", ["parse", "translate"])
async def test_a_bug_on_the_way_retries_that_message_with_a_cap_and_spares_the_rest(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(pipeline, function)

    def broken(subject: Any, *args: Any, **keywords: Any) -> Any:
        if b"bug" in (subject if isinstance(subject, bytes) else str(subject.wire).encode()):
            raise ZeroDivisionError("payload must not travel")
        return real(subject, *args, **keywords)

    monkeypatch.setattr(pipeline, function, broken)
    harness = pipeline_harness(max_attempts=2)
    last_try = live(2, "bug")
    last_try.properties.headers[contract.ATTEMPT] = 2
    await harness.process(live(1, "bug"), last_try, live(3))
    assert harness.outcomes == {"retry": 1, "dead": 1, "published": 1}
    assert harness.codes == ["unexpected_error"]
    assert "payload must not travel" not in str([one.headers for one in harness.publisher.taken])


# -- retries ----------------------------------------------------------------------------------------------------------


async def test_what_the_broker_refuses_is_retried_in_growing_tiers_until_attempts_are_used_up() -> None:
    harness = pipeline_harness(max_attempts=3)
    harness.publisher.full.add(LIVE)
    one = live(1)
    for attempt, tier in ((1, "1s"), (2, "10s")):
        await harness.process(one)
        (copy,) = harness.at(contract.retry_queue(tier), "")
        assert (copy.headers or {})[contract.ATTEMPT] == attempt + 1
        assert copy.body == one.body
        one = FakeDelivery(copy.body, Properties(headers=dict(copy.headers or {})), exchange="")
    await harness.process(one)
    assert harness.outcomes == {"retry": 2, "dead": 1}
    assert harness.codes == ["publish_rejected"]
    assert harness.reported.letters == [
        ("publish_rejected", 1, True),
        ("publish_rejected", 2, True),
        ("publish_rejected", 3, False),
    ]
    assert (harness.letters[0].headers or {})[contract.ATTEMPT] == 3


async def test_a_refusal_nobody_listed_is_retried() -> None:
    harness = pipeline_harness()
    harness.store.refuses["m-1"] = PERHAPS
    await harness.process(customers(1), customers(2))
    assert harness.outcomes == {"retry": 1, "stored": 1}


async def test_a_bug_in_the_stores_adapter_retries_the_bundle() -> None:
    harness = pipeline_harness()
    harness.store.bug = KeyError("x")
    await harness.process(customers(1), customers(2), live(3))
    assert harness.outcomes == {"retry": 2, "published": 1}


@pytest.mark.parametrize("trouble", ["full", "unbound"])
async def test_a_delivery_is_not_settled_before_its_copy_is_confirmed(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmed, "_PAUSE_SECONDS", 0.01)
    harness = pipeline_harness()
    blocked = getattr(harness.publisher, trouble)
    blocked.add("")  # the dead-letter exchange is published to with an empty key
    await harness.process(delivery(b"bad"), live(1))
    assert harness.outcomes == {"published": 1}
    assert harness.reported.warnings[0][0] == "copies_refused"
    blocked.clear()
    await eventually_async(lambda: harness.outcomes == {"published": 1, "dead": 1}, seconds=5)
    assert len(harness.letters) == 1


# -- unknown effects --------------------------------------------------------------------------------------------------


async def test_what_is_of_unknown_effect_stays_unsettled() -> None:
    harness = pipeline_harness()
    harness.publisher.lost = True
    await harness.process(live(1), delivery(b"bad"), customers(3))
    assert harness.outcomes == {"stored": 1}
    assert harness.received - len(harness.settled) == 2


async def test_an_event_of_unknown_effect_is_no_failure_and_makes_no_copy() -> None:
    harness = pipeline_harness()

    async def lost(messages: Sequence[Outgoing]) -> list[Confirmation]:
        assert {one.exchange for one in messages} == {contract.HUB}
        return [Confirmation.UNKNOWN] * len(messages)

    harness.publisher.publish = lost
    await harness.process(live(1), live(2))
    assert not harness.settled
    assert not harness.reported.letters


# -- the store is away ------------------------------------------------------------------------------------------------


async def test_while_the_store_is_away_its_messages_wait_and_spend_no_attempt() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    batch = [customers(number) for number in range(12)]
    await harness.process(*batch)
    assert not harness.settled
    assert not harness.publisher.taken
    assert not harness.gate.is_open
    harness.store.away = False
    harness.back.set()
    await eventually_async(lambda: harness.outcomes == {"stored": 12}, seconds=5)
    harness.assert_settled(*batch)


async def test_while_the_registry_is_away_named_conversations_go_on_and_sessions_wait() -> None:
    harness = pipeline_harness(cache_ms=0)
    harness.registry.away = True
    harness.publisher.unbound.add(CLOSED)
    await harness.process(live(1), of_session("live-session", 2), closed(3))
    assert harness.outcomes == {"published": 1}, "the one for the closed conversation was returned and waits as well"
    harness.registry.away = False
    harness.back.set()
    await eventually_async(lambda: harness.outcomes == {"published": 2, "stored": 1}, seconds=5)


async def test_a_remembered_conversation_needs_no_registry() -> None:
    harness = pipeline_harness()
    await harness.process(live(1))
    harness.registry.away = True
    await harness.process(live(2), of_session("live-session", 3))
    assert harness.outcomes == {"published": 3}
    assert len(harness.registry.questions) == 1
    assert harness.gate.is_open


async def test_a_registry_that_does_not_answer_in_time_counts_as_away() -> None:
    harness = pipeline_harness()
    asked = asyncio.Event()

    async def silence(*_: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    harness.registry.lookup = silence
    await harness.process(live(1))
    assert asked.is_set()
    assert harness.outcomes == {"published": 1}
    assert harness.gate.failure is not None
    assert harness.gate.failure.code is Code.STORE_UNAVAILABLE


async def test_a_record_nobody_can_read_retries_the_works_that_asked_for_it_only() -> None:
    harness = pipeline_harness()
    await harness.process(live(0))
    harness.registry.bug = TypeError("a record of another kind")
    await harness.process(delivery(message(1, conversationId="other")), of_session("s", 2), customers(3), live(4))
    assert harness.outcomes == {"retry": 2, "stored": 1, "published": 2}
    assert harness.gate.is_open


async def test_what_was_on_its_way_to_the_store_when_it_went_away_does_not_fill_the_window_either() -> None:
    harness = pipeline_harness(waiting=5)
    harness.store.away = True
    await harness.process(*(customers(number) for number in range(20)))
    assert harness.outcomes == {"retry": 15}
    harness.store.away = False
    harness.back.set()
    await eventually_async(lambda: harness.outcomes == {"retry": 15, "stored": 5}, seconds=5)


async def test_in_an_outage_only_so_many_wait_here_and_the_rest_in_the_broker_with_no_attempt_spent() -> None:
    harness = pipeline_harness(waiting=3)
    harness.store.away = harness.registry.away = True
    await harness.process(customers("closes the gate"))
    await harness.process(*(customers(number) for number in range(6)), *(of_session("s", f"s{n}") for n in range(6)))
    assert harness.outcomes == {"retry": 10}, "one and two more wait here"
    aside = harness.at(contract.retry_queue("10s"), "")
    assert {(one.headers or {})[contract.ATTEMPT] for one in aside} == {1}
    await harness.process(live(1))
    assert harness.outcomes == {"retry": 10, "published": 1}, "live traffic goes on"
    harness.store.away = harness.registry.away = False
    harness.back.set()
    await eventually_async(lambda: harness.outcomes["stored"] == 3, seconds=5)


# -- senders ----------------------------------------------------------------------------------------------------------


def as_user(user: str | None, sender: str = "app-1", **headers: Any) -> FakeDelivery:
    one = live(f"{user}/{sender}/{len(headers)}", sender=sender)
    one.properties = Properties(user_id=user, headers=headers)
    return one


COPY: dict[str, Any] = {contract.FAILED_AT: 1, contract.ORIGIN_QUEUE: "cim.ingress", contract.ATTEMPT: 2}


@pytest.mark.parametrize(
    ("one", "allowed"),
    [
        (as_user("alice"), True),
        (as_user("alice", "app-2"), True),
        (as_user("alice", "unlisted"), False),
        (as_user("bob"), False),
        (as_user(None), False),
        (as_user("bob", "unlisted"), True),
        (as_user(None, "unlisted"), True),
        (as_user("worker", **COPY, **{contract.USER_ID: "alice"}), True),
        (as_user("worker", **COPY, **{contract.USER_ID: "bob"}), False),
        (as_user("bob", **COPY, **{contract.USER_ID: "alice"}), False),
        (as_user(None, **COPY, **{contract.USER_ID: "alice"}), False),
    ],
)
async def test_a_sender_id_belongs_to_its_broker_user(one: FakeDelivery, allowed: bool) -> None:  # noqa: FBT001
    harness = pipeline_harness(senders={"alice": frozenset({"app-1", "app-2"})})
    await harness.process(one)
    assert harness.outcomes == {"published" if allowed else "dead": 1}
    assert harness.codes == ([] if allowed else ["sender_not_allowed"])


async def test_without_a_table_anybody_may_send_and_the_checked_user_travels() -> None:
    harness = pipeline_harness()
    await harness.process(as_user("bob"), as_user(None, "x"))
    assert harness.outcomes == {"published": 2}
    assert (harness.at(LIVE)[0].headers or {})[contract.USER_ID] == "bob"


# -- accounts and ends ------------------------------------------------------------------------------------------------


async def test_received_is_outcomes_plus_in_flight_at_every_moment() -> None:
    harness = pipeline_harness()
    kinds: Sequence[Any] = (
        live,
        closed,
        customers,
        lambda _: delivery(b"bad"),
        lambda n: of_session("live-session", n),
    )
    harness.store.refuses["m-7"] = PERHAPS
    held: list[Outgoing] = []
    real: Callable[[Sequence[Outgoing]], Awaitable[list[Confirmation]]] = harness.publisher.publish

    async def watched(messages: Sequence[Outgoing]) -> list[Confirmation]:
        assert harness.received == sum(harness.outcomes.values()) + (harness.received - len(harness.settled))
        held.extend(messages)
        return await real(messages)

    harness.publisher.publish = watched
    for start in range(0, 40, 8):
        await harness.process(*(kinds[number % 5](number) for number in range(start, start + 8)))
    assert sum(harness.outcomes.values()) == harness.received == 40
    assert len(held) == len(harness.publisher.taken)


async def test_stopping_abandons_what_is_in_work_and_settles_nothing_more() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(customers(1))
    await harness.pipeline.stop()
    harness.store.away = False
    harness.back.set()
    await eventually_async(lambda: harness.gate.is_open, seconds=5)
    await harness.process(customers(2))
    assert not harness.settled


async def test_a_bug_in_a_lane_is_shown_and_not_swallowed() -> None:
    harness = pipeline_harness()

    async def broken(messages: Sequence[Outgoing]) -> list[Confirmation]:
        raise ZeroDivisionError(str(len(messages)))

    harness.publisher.publish = broken
    await harness.pipeline.process([delivery(b"bad")])
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(harness.crash.happened, 5)
    assert not harness.settled
