"""Everything that can happen to a batch, with fakes for broker, store and registry."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.store.examples import activity
from tests.support.deliveries import FakeDelivery, delivery
from tests.support.eventually import eventually_async
from tests.support.fakes import SilentRegistry
from tests.support.identity import event_id_of
from tests.support.pipeline_harness import PipelineHarness
from worker import contract
from worker.codes import Code, Stage
from worker.conversations.conversation import ConversationRecord, ConversationState, Fact, SessionFact
from worker.failure import Failure, store_silent
from worker.flow import confirmed
from worker.pipeline import reading, store_share
from worker.pipeline.ports import Written
from worker.pipeline.senders import Senders
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
    facts = tuple(SessionFact({"id": session}, 5) for session in sessions)
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


def came_back(copy: Outgoing) -> FakeDelivery:
    """Return the delivery that a copy becomes when it comes back, from the waiting room or a retry tier."""
    queue = contract.WAITING if copy.routing_key == contract.WAITING else contract.INGRESS
    return FakeDelivery(copy.body, Properties(headers=dict(copy.headers or {})), exchange="", queue=queue)


def of_session(name: str, number: object = 1) -> FakeDelivery:
    return delivery(message(number, channelSessionId=name))


# -- published --------------------------------------------------------------------------------------------------------


async def test_a_message_of_a_live_conversation_is_published_and_settled() -> None:
    harness, one = pipeline_harness(), live(7)
    one.properties = Properties(correlation_id="theirs", headers={"traceparent": "00-t"})
    await harness.process(one)
    (event,) = harness.at(LIVE)
    body = json.loads(event.body)
    assert event.message_id == body["id"] == event_id_of(one.body)
    assert (body["name"], body["type"], body["conversationId"]) == ("THIRD_PARTY_ACTIVITY", "ACTIVITY", LIVE)
    assert body["roomInfo"]["id"] == f"room of {LIVE}"
    assert (event.type, event.app_id, event.content_type) == ("THIRD_PARTY_ACTIVITY", "cim-worker", "application/json")
    assert (event.correlation_id, event.timestamp) == ("theirs", harness.clock.now_ms() // 1000)
    assert dict(event.headers or {}) == {"traceparent": "00-t"}
    assert harness.outcomes == {"published": 1}
    harness.assert_settled(one)


async def test_what_goes_to_the_store_does_not_wait_for_the_confirms_of_what_goes_to_the_hub() -> None:
    harness = pipeline_harness()
    await harness.process(live(1))  # and its conversation is known from now on
    harness.publisher.answers.clear()
    processing = asyncio.create_task(harness.process(live(2), customers(3)))
    await eventually_async(lambda: harness.outcomes == {"published": 1, "stored": 1}, "stored without a confirm")
    harness.publisher.answers.set()
    await processing
    assert harness.outcomes == {"published": 2, "stored": 1}


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
    assert len(harness.store.held) == 1
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
    assert len(harness.store.held) == 1
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


async def test_events_of_a_conversation_keep_their_order_whichever_the_registry_was_asked_about() -> None:
    harness = pipeline_harness()
    harness.registry.records["other"] = record("other", "ACTIVE", "other-session")
    await harness.process(live(1))
    others = [delivery(message(number, conversationId="other")) for number in (2, 4)]
    await harness.process(others[0], live(3), others[1], live(5))
    assert [one.correlation_id for one in harness.at(LIVE)] == ["m-1", "m-3", "m-5"]
    assert [one.correlation_id for one in harness.at("other")] == ["m-2", "m-4"]


async def test_the_same_again_is_a_duplicate_within_a_batch_and_later() -> None:
    harness = pipeline_harness()
    batch = [customers(1), customers(1), customers(1)]
    await harness.process(*batch)
    await harness.process(again := customers(1))
    assert harness.outcomes == {"stored": 1, "duplicate": 3}
    harness.assert_settled(*batch, again)


async def test_the_same_id_with_other_content_is_another_activity() -> None:
    harness = pipeline_harness()
    await harness.process(closed(1, "first"), closed(1, "second"))
    assert harness.outcomes == {"stored": 2}


async def test_contradicting_anchors_are_counted_and_change_nothing() -> None:
    harness = pipeline_harness()
    ours, theirs = {"_id": f"customer of {LIVE}"}, {"_id": "somebody else"}
    for customer in (ours, theirs, theirs):  # the registry is asked for the first, the others are remembered
        await harness.process(live(1, customer=customer))
    await harness.process(of_session("live-session", 2))
    assert harness.reported.contradictions == ["customer", "customer"]
    assert harness.outcomes == {"published": 4}


async def test_a_session_of_another_conversation_is_counted_where_that_one_is_remembered() -> None:
    harness = pipeline_harness()
    harness.registry.records["other"] = record("other", "ACTIVE", "other-session")
    await harness.process(live(1, channelSessionId="other-session"))
    assert harness.reported.contradictions == [], "nobody is asked only to count"
    await harness.process(of_session("other-session", 2))
    await harness.process(live(3, channelSessionId="other-session"))
    assert harness.reported.contradictions == ["channel_session"]
    assert len(harness.at(LIVE)) == 2


async def test_the_event_has_the_customer_the_registry_knows_and_the_name_of_its_intent() -> None:
    harness = pipeline_harness(event_names={"VOICE_RECORDING": "MEDIA_RECORDING"})
    await harness.process(live(1, intent="VOICE_RECORDING"))
    (event,) = harness.at(LIVE)
    body = json.loads(event.body)
    assert body["data"]["header"]["customer"] == {"_id": f"customer of {LIVE}"}
    assert event.type == body["name"] == "MEDIA_RECORDING"


async def test_with_an_idempotency_key_other_content_is_the_same_activity() -> None:
    harness = pipeline_harness()
    first, rebuilt, other = closed(1, "first"), closed(2, "rebuilt"), closed(1, "first")
    for one, key in ((first, "k-1"), (rebuilt, "k-1"), (other, "k-2")):
        one.properties = Properties(headers={"cim-idempotency-key": key})
    await harness.process(first, rebuilt, other)
    assert harness.outcomes == {"stored": 2, "duplicate": 1}


async def test_a_live_event_is_known_by_its_idempotency_key_also_when_it_comes_back() -> None:
    harness = pipeline_harness()
    harness.publisher.unbound.add(LIVE)
    for text in ("first", "rebuilt"):
        one = delivery(message(1, text, conversationId=LIVE))
        one.properties = Properties(headers={"cim-idempotency-key": "k-1"})
        await harness.process(one)
    assert harness.outcomes == {"stored": 1, "duplicate": 1}


@pytest.mark.parametrize("key", [7, b"bytes", ["k"], "line\nend", "k" * 243])
async def test_an_idempotency_key_that_is_none_is_no_reason_to_guess(key: object) -> None:
    harness = pipeline_harness()
    one = closed(1)
    one.properties = Properties(headers={"cim-idempotency-key": key})
    await harness.process(one)
    assert harness.codes == ["id_too_long" if key == "k" * 243 else "invalid_id"]


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
    real = getattr(reading, function)

    def broken(subject: Any, *args: Any, **keywords: Any) -> Any:
        if b"bug" in (subject if isinstance(subject, bytes) else str(subject.wire).encode()):
            raise ZeroDivisionError("payload must not travel")
        return real(subject, *args, **keywords)

    monkeypatch.setattr(reading, function, broken)
    harness = pipeline_harness(max_attempts=2)
    last_try = live(2, "bug")
    last_try.properties.headers[contract.ATTEMPT] = 2
    await harness.process(live(1, "bug"), last_try, live(3))
    assert harness.outcomes == {"retry": 1, "dead": 1, "published": 1}
    assert harness.codes == ["unexpected_error"]
    assert "payload must not travel" not in str([one.headers for one in harness.publisher.taken])


# -- retries ----------------------------------------------------------------------------------------------------------


async def test_what_fails_is_retried_in_growing_tiers_until_attempts_are_used_up() -> None:
    harness = pipeline_harness(max_attempts=3)
    harness.store.refuses["m-1"] = PERHAPS
    one = customers(1)
    for attempt, tier in ((1, "1s"), (2, "10s")):
        await harness.process(one)
        (copy,) = harness.at(contract.retry_queue(tier), "")
        assert (copy.headers or {})[contract.ATTEMPT] == attempt + 1
        assert copy.body == one.body
        one = came_back(copy)
    await harness.process(one)
    assert harness.outcomes == {"retry": 2, "dead": 1}
    assert harness.codes == ["unexpected_error"]
    assert harness.reported.letters == [
        ("unexpected_error", 1, True),
        ("unexpected_error", 2, True),
        ("unexpected_error", 3, False),
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


async def test_while_the_store_is_away_its_messages_wait_in_the_broker_and_spend_no_attempt() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    one = customers("tried before")
    one.properties = Properties(headers={contract.ATTEMPT: 2})
    batch = [customers(number) for number in range(20)]
    await harness.process(*batch, one, live(1))
    assert harness.outcomes == {"waiting": 21 - 8, "published": 1}, "eight are kept in hand to probe with"
    assert not harness.letters
    assert harness.reported.down == ["store store_unavailable"]
    assert not harness.reported.letters, "an outage is one line, however many messages wait for its end"
    await harness.process(live(2))
    assert harness.outcomes["published"] == 2, "live traffic goes on"
    harness.store.away = False
    await eventually_async(lambda: harness.outcomes["stored"] == 8, seconds=5)
    assert {(copy.headers or {})[contract.ATTEMPT] for copy in harness.waiting} <= {1, 2}
    assert harness.reported.up == ["store"]


async def test_what_comes_back_from_the_waiting_room_is_stored_and_waits_again_in_another_outage() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(*(customers(number) for number in range(9)))
    (copy,) = harness.waiting
    back = came_back(copy)
    await harness.process(back)
    assert harness.outcomes == {"waiting": 2}
    harness.store.away = False
    await eventually_async(lambda: harness.outcomes["stored"] == 8, seconds=5)
    await harness.process(came_back(harness.waiting[-1]))
    assert harness.outcomes == {"waiting": 2, "stored": 9}


async def test_the_probe_is_the_failed_write_itself_with_another_message_each_time() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(*(customers(number) for number in range(3)))
    tried: list[str] = []
    real = harness.store.store

    async def watched(activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        tried.extend(one.message.id for one in activities)
        return await real(activities, now_ms)  # type: ignore[no-any-return]

    harness.store.store = watched
    await eventually_async(lambda: len(tried) >= 6, seconds=5)
    assert tried[:6] == ["m-0", "m-1", "m-2", "m-0", "m-1", "m-2"]


async def test_a_message_of_its_own_fault_ends_an_outage_as_an_answer_and_dies() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(customers(1))
    harness.store.refuses["m-1"] = NEVER
    harness.store.away = False
    await eventually_async(lambda: harness.outcomes == {"dead": 1}, seconds=5)
    assert harness.store_gate.is_open


async def test_what_waits_in_hand_for_five_minutes_goes_to_the_waiting_room_and_another_is_asked_for() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(customers(1))
    assert harness.storing.room == 0
    harness.clock.ms += 301_000
    await eventually_async(lambda: harness.outcomes == {"waiting": 1}, seconds=5)
    await eventually_async(lambda: harness.storing.room == 1, seconds=5)


async def test_an_unknown_failure_of_one_message_waits_once_and_is_its_own_when_others_were_stored() -> None:
    harness = pipeline_harness()
    harness.store.unproven["m-1"] = PERHAPS
    await harness.process(customers(1), customers(2))
    assert harness.outcomes == {"waiting": 1, "stored": 1}
    back = came_back(harness.waiting[0])
    harness.clock.ms += 10
    await harness.process(customers(3))
    await harness.process(back)
    assert harness.outcomes == {"waiting": 1, "stored": 2, "retry": 1}
    assert harness.store_gate.is_open


async def test_an_unknown_failure_while_nothing_is_stored_makes_the_store_suspect_until_another_is_stored() -> None:
    harness = pipeline_harness()
    harness.store.unproven["m-1"] = PERHAPS
    await harness.process(customers(1))
    await harness.process(came_back(harness.waiting[0]))
    assert not harness.store_gate.is_open
    assert harness.outcomes == {"waiting": 1}
    harness.clock.ms += 10
    await harness.process(customers(2))
    await eventually_async(lambda: harness.outcomes["stored"] == 1, seconds=5)
    await eventually_async(lambda: harness.outcomes["retry"] == 1, seconds=5)
    assert harness.store_gate.is_open


async def test_a_message_that_alone_meets_an_outage_comes_back_later_for_as_long_as_it_lasts() -> None:
    harness = pipeline_harness(max_attempts=2)
    harness.store.unproven["m-1"] = store_silent()
    await harness.process(customers(1), customers(2))
    back = came_back(harness.waiting[0])
    harness.clock.ms += 10
    await harness.process(customers(3))
    for _ in range(5):
        await harness.process(back)
        copy = harness.at(contract.retry_queue("10s"), "")[-1]
        assert (copy.headers or {})[contract.ATTEMPT] == 1
        await harness.process(came_back(copy))
        back = came_back(harness.waiting[-1])
        harness.clock.ms += 10
        await harness.process(customers(f"other {harness.clock.ms}"))
    assert not harness.letters
    assert harness.store_gate.is_open


async def test_while_the_registry_is_away_named_conversations_go_on_and_sessions_wait() -> None:
    harness = pipeline_harness(cache_ms=0)
    harness.registry.away = harness.store.away = True
    harness.publisher.unbound.add(CLOSED)
    await harness.process(live(1), of_session("live-session", 2), closed(3))
    assert harness.outcomes == {"published": 1, "waiting": 1}, "the returned one is in hand, to probe with"
    harness.registry.away = harness.store.away = False
    await eventually_async(lambda: harness.outcomes["stored"] == 1, seconds=5)
    await eventually_async(lambda: harness.lookups_gate.is_open, seconds=5)
    await harness.process(came_back(harness.waiting[0]))
    assert harness.outcomes == {"published": 2, "stored": 1, "waiting": 1}


async def test_a_remembered_conversation_needs_no_registry() -> None:
    harness = pipeline_harness()
    await harness.process(live(1))
    harness.registry.away = True
    await harness.process(live(2), of_session("live-session", 3))
    assert harness.outcomes == {"published": 3}
    assert len(harness.registry.questions) == 1
    assert harness.lookups_gate.is_open


async def test_while_the_registry_is_away_what_is_remembered_is_used_beyond_its_time() -> None:
    harness = pipeline_harness(cache_ms=1000)
    await harness.process(live(1))
    harness.registry.away = True
    harness.clock.ms += 60_000
    await harness.process(delivery(message(2, conversationId=UNHEARD_OF)))
    assert not harness.lookups_gate.is_open
    await harness.process(live(3), of_session("live-session", 4))
    assert harness.outcomes == {"published": 4}
    assert json.loads(harness.at(LIVE)[-1].body)["roomInfo"]["id"] == f"room of {LIVE}"


async def test_once_the_store_is_known_to_be_away_what_is_remembered_waits_for_no_lookup() -> None:
    harness = pipeline_harness(cache_ms=1000)
    await harness.process(live(1))
    harness.store.away = harness.registry.away = True
    await harness.process(customers(2))
    assert harness.lookups_gate.is_open, "nothing has been asked since"
    harness.clock.ms += 1500
    harness.registry.lookup = lambda *_: asyncio.sleep(3600)
    await harness.process(live(3))
    assert harness.outcomes == {"published": 2}


async def test_a_slow_registry_holds_up_neither_what_is_remembered_nor_what_needs_no_lookup() -> None:
    harness = pipeline_harness(cache_ms=1000)
    await harness.process(live(1))
    answered, real = asyncio.Event(), harness.registry.lookup

    async def slow(conversations: Any, sessions: Any) -> Any:
        await answered.wait()
        return await real(conversations, sessions)

    harness.registry.lookup = slow
    await harness.process(of_session("closed-session", 2), live(3), customers(4))
    harness.clock.ms += 1500
    await harness.process(live(5))
    assert harness.outcomes == {"published": 3, "stored": 1}
    answered.set()
    await eventually_async(lambda: harness.outcomes == {"published": 3, "stored": 2}, seconds=5)


async def test_what_a_late_registry_told_is_used_beyond_its_time_and_asked_for_again_meanwhile() -> None:
    harness = pipeline_harness(cache_ms=1000)
    asked: list[set[str]] = []
    go_on, real = asyncio.Event(), harness.registry.lookup

    async def late(conversations: Any, sessions: Any) -> Any:
        asked.append(set(conversations))
        harness.clock.ms += 600
        await go_on.wait()
        return await real(conversations, sessions)

    harness.registry.lookup = late
    go_on.set()
    await harness.process(live(1))
    go_on.clear()
    harness.clock.ms += 1500
    await harness.process(live(2), of_session("live-session", 3))
    assert harness.outcomes == {"published": 3}
    assert json.loads(harness.at(LIVE)[-1].body)["roomInfo"]["id"] == f"room of {LIVE}"
    assert asked == [{LIVE}, {LIVE}], "once for both"
    del harness.registry.records[LIVE]
    go_on.set()
    await eventually_async(lambda: harness.cache.by_conversation(LIVE, 0.0, stale=True) is None, seconds=5)


async def test_a_bug_in_a_lookup_retries_the_messages_that_asked_and_no_other() -> None:
    harness = pipeline_harness()
    await harness.process(live(0))
    harness.registry.bug = TypeError("a record of another kind")
    await harness.process(delivery(message(1, conversationId="other")), of_session("s", 2), customers(3), live(4))
    assert harness.outcomes == {"retry": 2, "stored": 1, "published": 2}
    assert harness.lookups_gate.is_open


async def test_a_bug_when_a_late_registry_is_asked_again_is_that_of_the_next_message_and_ends_no_session() -> None:
    harness = pipeline_harness(cache_ms=1000)
    real = harness.registry.lookup

    async def late(conversations: Any, sessions: Any) -> Any:
        harness.clock.ms += 600
        return await real(conversations, sessions)

    harness.registry.lookup = late
    await harness.process(live(1))
    harness.clock.ms += 1500
    harness.registry.bug = TypeError("a record of another kind")
    await harness.process(live(2))
    await harness.process(live(3))
    assert harness.outcomes == {"published": 2, "retry": 1}


async def test_a_store_that_falls_behind_gets_half_the_window_and_the_rest_waits_in_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_share, "_LOOK_SECONDS", 60)  # on a busy machine it would look in the middle
    harness = pipeline_harness(window=8, bundle=1)
    answered, real = asyncio.Event(), harness.store.store

    async def slow(activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        await answered.wait()
        return await real(activities, now_ms)  # type: ignore[no-any-return]

    harness.store.store = slow
    await harness.process(*(customers(number) for number in range(6)))
    assert not harness.settled, "a store that keeps up is not behind, however much is in hand"
    harness.clock.ms += 600
    await harness.process(*(customers(number) for number in range(6, 12)), live(1))
    assert harness.outcomes == {"waiting": 6, "published": 1}
    assert harness.storing.room == 0
    answered.set()
    await eventually_async(lambda: harness.outcomes["stored"] == 6, seconds=5)
    assert harness.storing.room == 2
    await harness.process(came_back(harness.waiting[0]))
    assert harness.outcomes == {"waiting": 6, "published": 1, "stored": 7}


async def test_lookups_that_stay_unanswered_take_half_the_window_and_what_comes_later_goes_on_without() -> None:
    harness = pipeline_harness(window=24, bundle=1, registry=SilentRegistry())
    await harness.process(*(of_session(f"s-{number}", number) for number in range(12)))
    assert not harness.settled, "half a second is no silence"
    harness.clock.ms += 1100
    await harness.process(of_session("s-12", 12), delivery(message(13, conversationId="nobody-asked")))
    assert harness.outcomes == {"waiting": 1, "published": 1}
    harness.registry.answers.set()
    await eventually_async(lambda: len(harness.settled) == 14, seconds=5)
    assert harness.outcomes == {"waiting": 1, "published": 1, "stored": 12}


async def test_a_window_full_of_lookups_that_stay_unanswered_is_half_free_again_though_nothing_comes() -> None:
    harness = pipeline_harness(window=24, bundle=1, registry=SilentRegistry())
    await harness.process(*(of_session(f"s-{number}", number) for number in range(24)))
    harness.clock.ms += 1100
    await eventually_async(lambda: harness.outcomes == {"waiting": 12}, seconds=5)
    assert [json.loads(copy.body)["id"] for copy in harness.waiting] == [f"m-{number}" for number in range(12, 24)]


async def test_a_window_full_of_writes_that_stay_unanswered_is_half_free_again_though_nothing_comes() -> None:
    harness = pipeline_harness(window=24, bundle=1)
    harness.store.store = lambda _activities, _now_ms: asyncio.Event().wait()
    await harness.process(*(customers(number) for number in range(24)))
    assert not harness.settled
    harness.clock.ms += 600
    await eventually_async(lambda: harness.outcomes == {"waiting": 12}, seconds=5)


async def test_a_window_smaller_than_a_bundle_is_half_free_again_when_neither_lookups_nor_writes_are_answered() -> None:
    """As that of a process that has just begun: what is asked for cannot be given back."""
    harness = pipeline_harness(window=32, bundle=200, registry=SilentRegistry())
    harness.store.store = lambda _activities, _now_ms: asyncio.Event().wait()
    await harness.process(*(customers(number) for number in range(16)))
    await harness.process(*(delivery(message(number, conversationId="nobody-asked")) for number in range(16, 32)))
    assert not harness.settled
    harness.clock.ms += 1100
    await eventually_async(lambda: len(harness.settled) == 16, seconds=5)
    harness.clock.ms += 1000
    await harness.process(*(delivery(message(number, conversationId="nobody-asked")) for number in range(32, 48)))
    assert harness.outcomes["published"] >= 16


async def test_what_waited_in_the_broker_stays_in_hand_however_long_its_lookup_takes() -> None:
    harness = pipeline_harness(window=8, bundle=1, registry=SilentRegistry())
    again = [FakeDelivery(of_session(f"s-{number}", number).body, queue=contract.WAITING) for number in range(12)]
    await harness.process(*again)
    harness.clock.ms += 1100
    await harness.process(FakeDelivery(of_session("s-12", 12).body, queue=contract.WAITING), of_session("s-13", 13))
    await eventually_async(lambda: harness.outcomes == {"waiting": 1}, seconds=5)
    assert harness.storing.room == 0, "no more is brought back"
    harness.registry.answers.set()
    await eventually_async(lambda: harness.outcomes == {"waiting": 1, "stored": 13}, seconds=5)


async def test_a_slow_store_gets_smaller_bundles_and_larger_ones_when_it_is_quick_again() -> None:
    harness = pipeline_harness(bundle=100, window=800)
    sizes: list[int] = []
    real = harness.store.store
    seconds = 2

    async def slow(activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        sizes.append(len(activities))
        harness.clock.ms += seconds * 1000
        return await real(activities, now_ms)  # type: ignore[no-any-return]

    harness.store.store = slow
    await harness.process(*(customers(number) for number in range(400)))
    assert sizes[:2] == [100, 100]
    assert sizes[2] < 100
    assert min(sizes) == 10
    seconds = 0
    await harness.process(*(customers(number) for number in range(400, 1200)))
    assert max(sizes[-20:]) > 50


async def test_a_message_that_waits_with_many_others_is_parsed_again_and_stored_the_very_same() -> None:
    harness = pipeline_harness(max_message_bytes=1_000_000, bundle=1)
    large = [delivery(message(number, "x" * 900_000, customer={"_id": "c"})) for number in range(4)]
    await harness.process(*large)
    await eventually_async(lambda: harness.outcomes == {"stored": 4}, seconds=5)
    assert len(harness.store.held) == 4


# -- subscribers ------------------------------------------------------------------------------------------------------


async def test_an_event_a_subscriber_refuses_goes_once_more_and_then_into_the_store() -> None:
    harness = pipeline_harness()
    harness.publisher.full.add(LIVE)
    await harness.process(live(1))
    (copy,) = harness.at(contract.retry_queue("1s"), "")
    assert ((copy.headers or {})[contract.ATTEMPT], (copy.headers or {})[contract.REFUSED]) == (1, 1)
    await harness.process(came_back(copy))
    assert harness.outcomes == {"retry": 1, "stored": 1}
    assert harness.store.reasons == ["refused_by_subscriber"]
    assert not harness.letters


async def test_an_event_a_subscriber_takes_the_second_time_is_published() -> None:
    harness = pipeline_harness()
    harness.publisher.full.add(LIVE)
    await harness.process(live(1))
    harness.publisher.full.clear()
    await harness.process(came_back(harness.at(contract.retry_queue("1s"), "")[0]))
    assert harness.outcomes == {"retry": 1, "published": 1}


async def test_an_event_larger_than_the_broker_takes_is_stored() -> None:
    harness = pipeline_harness()

    async def too_large(messages: Sequence[Outgoing]) -> list[Confirmation]:
        return [Confirmation.TOO_LARGE] * len(messages)

    harness.publisher.publish = too_large
    await harness.process(live(1))
    assert harness.outcomes == {"stored": 1}
    assert harness.store.reasons == ["event_too_large"]


async def test_the_store_is_told_why_an_activity_came_to_it() -> None:
    harness = pipeline_harness(cache_ms=0)
    harness.publisher.unbound |= {LIVE, UNHEARD_OF}
    for one in (customers(1), closed(2), of_session("nobody's", 3), live(4)):
        await harness.process(one)
    await harness.process(delivery(message(5, conversationId=UNHEARD_OF)))
    reasons = ["stand_alone", "closed", "unknown_session", "nobody_listens", "unknown_conversation"]
    assert harness.store.reasons == reasons
    assert harness.returned == [LIVE], "an active conversation whose exchange took nothing is looked at"


async def test_events_of_a_conversation_with_a_large_session_are_published_a_few_at_a_time() -> None:
    harness = pipeline_harness()
    session = {"id": "large", "notes": "x" * 400_000}
    harness.registry.records["big"] = ConversationRecord(
        "big", Fact("ACTIVE", 5), Fact("c", 5), Fact(None, 5), (SessionFact(session, 5),)
    )
    calls: list[int] = []
    real: Callable[[Sequence[Outgoing]], Awaitable[list[Confirmation]]] = harness.publisher.publish

    async def watched(messages: Sequence[Outgoing]) -> list[Confirmation]:
        calls.append(sum(len(one.body) for one in messages))
        return await real(messages)

    harness.publisher.publish = watched
    await harness.process(*(delivery(message(number, conversationId="big")) for number in range(10)))
    await eventually_async(lambda: harness.outcomes == {"published": 10}, seconds=5)
    assert max(calls) < 1_700_000
    assert len(calls) >= 3


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


def test_who_is_not_trusted_gains_nothing_by_naming_another() -> None:
    senders = Senders({"alice": frozenset({"app-1"})}, frozenset({"worker"}))
    message = activity("m-1").message
    assert senders.problem(message, as_user("worker", **{contract.USER_ID: "alice"})) is None
    assert senders.problem(message, as_user("bob", **{contract.USER_ID: "alice"})) is not None
    assert senders.problem(message, as_user(None, **{contract.USER_ID: "alice"})) is not None


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


async def test_stopping_abandons_what_is_in_progress_and_settles_nothing_more() -> None:
    harness = pipeline_harness()
    harness.store.away = True
    await harness.process(customers(1))
    await harness.pipeline.stop()
    harness.store.away = False
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
