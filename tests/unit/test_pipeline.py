"""Everything that can happen to a batch, with fakes for broker, store and registry (see tests/fakes.py)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.eventually import eventually_async
from tests.fakes import FakePublisher, FakeRegistry, FakeStore
from tests.unit.deliveries import FakeDelivery, Notebook, SetClock, delivery
from worker import contract, copies, pipeline
from worker.activity import event_id
from worker.cim.conversation import ConversationState
from worker.codes import Code, FailureClass, Stage
from worker.conversation_cache import ConversationCache
from worker.failure import Failure, StoreUnavailable, store_silent
from worker.gate import Gate
from worker.lifecycle import ConversationRecord, Fact
from worker.ports import Outgoing, Properties, Receipt
from worker.retry import RetryBudget, RetryPolicy
from worker.store_result import Written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.activity import Activity
    from worker.store_result import StoreResult

LIVE, CLOSED, UNHEARD_OF = "live-conversation", "closed-conversation", "unheard-of-conversation"
NEVER = Failure(FailureClass.PERMANENT, Code.STORE_REJECTED, Stage.STORE, "never", "f1")
PERHAPS = Failure(FailureClass.UNKNOWN, Code.UNEXPECTED_ERROR, Stage.STORE, "perhaps", "f2")


def record(name: str, state: str, *sessions: str) -> ConversationRecord:
    room = {"id": f"room of {name}", "mode": "CONTACT_CENTER"}
    facts = tuple(Fact({"id": session}, 5) for session in sessions)
    return ConversationRecord(name, Fact(state, 5), Fact(f"customer of {name}", 5), Fact(room, 5), facts)


class Bench:
    """A pipeline between fakes. Deliveries that were settled are in `settled`, in the order of settling."""

    def __init__(self, *, cache_ms: int = 60_000, max_attempts: int = 3, waiting: int = 100, **senders: str) -> None:
        self.publisher, self.store, self.registry = FakePublisher(), FakeStore(), FakeRegistry()
        self.registry.records = {
            LIVE: record(LIVE, "ACTIVE", "live-session"),
            CLOSED: record(CLOSED, "CLOSED", "closed-session"),
        }
        self.notebook, self.clock = Notebook(), SetClock()
        self.settled: list[FakeDelivery] = []
        self.received = 0
        self.probes = 0
        self.back = asyncio.Event()
        self.gate = Gate(
            "store",
            self.probe,
            random=lambda: 0.0,
            clock=self.clock.monotonic,
            on_close=lambda *_: None,
            on_open=lambda *_: None,
        )
        self.cache = ConversationCache(max_size=100, ttl_ms=cache_ms)
        ids = iter(range(1_000_000))
        self.pipeline = pipeline.Pipeline(
            registry=self.registry,
            store=self.store,
            publisher=self.publisher,
            gate=self.gate,
            cache=self.cache,
            retry=RetryPolicy(("1s", "10s"), max_attempts),
            budget=RetryBudget(1000, self.clock.monotonic()),
            sender_users={user: frozenset(names.split("|")) for user, names in senders.items()},
            limits=pipeline.PipelineLimits(
                max_message_bytes=10_000,
                bundle=5,
                bundle_bytes=100_000,
                lookup_timeout_seconds=0.5,
                own_user="worker" if senders else None,
            ),
            clock=self.clock,
            accounts=self.notebook,
            settle=self.settle,
            new_id=lambda: f"copy-{next(ids)}",
        )
        self.pipeline.fit(2 * waiting)

    def settle(self, one: FakeDelivery) -> None:
        assert one not in self.settled, "settled twice"
        self.settled.append(one)

    async def probe(self) -> None:
        self.probes += 1
        if not self.back.is_set():
            raise StoreUnavailable(store_silent())

    async def process(self, *batch: FakeDelivery) -> None:
        """Process a batch and let its lanes run as far as they get."""
        self.received += len(batch)
        await self.pipeline.process(batch)
        for _ in range(30):
            await asyncio.sleep(0)
        assert not self.pipeline.bug.done()

    @property
    def outcomes(self) -> Counter[str]:
        totals: Counter[str] = Counter()
        for (outcome, _), count in self.notebook.outcomes.items():
            totals[outcome] += count
        assert sum(totals.values()) == len(self.settled), "an outcome for each settled delivery, and for no other"
        return totals

    def assert_settled(self, *batch: FakeDelivery) -> None:
        assert set(map(id, batch)) == set(map(id, self.settled))

    def at(self, routing_key: str, exchange: str = contract.HUB) -> list[Outgoing]:
        return [one for one in self.publisher.taken if (one.exchange, one.routing_key) == (exchange, routing_key)]

    @property
    def letters(self) -> list[Outgoing]:
        return [one for one in self.publisher.taken if one.exchange == contract.DEAD_LETTERS]

    @property
    def codes(self) -> list[object]:
        return [(one.headers or {})[contract.CODE] for one in self.letters]


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
    bench, one = Bench(), live(7)
    one.properties = Properties(correlation_id="theirs", headers={"traceparent": "00-t"})
    await bench.process(one)
    (event,) = bench.at(LIVE)
    body = json.loads(event.body)
    assert event.message_id == body["id"] == event_id("app-1", "m-7")
    assert (body["name"], body["type"], body["conversationId"]) == ("THIRD_PARTY_ACTIVITY", "ACTIVITY", LIVE)
    assert body["roomInfo"]["id"] == f"room of {LIVE}"
    assert (event.type, event.app_id, event.content_type) == ("THIRD_PARTY_ACTIVITY", "cim-worker", "application/json")
    assert (event.correlation_id, event.timestamp) == ("theirs", bench.clock.now_ms() // 1000)
    assert dict(event.headers or {}) == {"traceparent": "00-t"}
    assert bench.outcomes == {"published": 1}
    bench.assert_settled(one)


async def test_the_message_id_correlates_when_the_publisher_gave_nothing() -> None:
    bench = Bench()
    await bench.process(live(7))
    assert bench.at(LIVE)[0].correlation_id == "m-7"


async def test_a_conversation_nobody_heard_of_is_tried_live_first() -> None:
    bench = Bench()
    await bench.process(delivery(message(conversationId=UNHEARD_OF)))
    assert len(bench.at(UNHEARD_OF)) == 1
    assert bench.outcomes == {"published": 1}


async def test_a_session_leads_to_its_conversation() -> None:
    bench = Bench()
    await bench.process(of_session("live-session", 1), of_session("closed-session", 2))
    assert json.loads(bench.at(LIVE)[0].body)["channelSession"] == {"id": "live-session"}
    assert event_id("app-1", "m-2") in bench.store.digests
    assert bench.outcomes == {"published": 1, "stored": 1}


@pytest.mark.parametrize("state", [*ConversationState, "A_STATE_OF_2031"])
async def test_only_closing_and_closed_conversations_are_not_live(state: str) -> None:
    bench = Bench()
    bench.registry.records["c"] = record("c", state)
    await bench.process(delivery(message(conversationId="c")))
    assert bench.outcomes == {"stored" if state in {"CLOSING", "CLOSED"} else "published": 1}


# -- stored -----------------------------------------------------------------------------------------------------------


async def test_a_closed_conversation_a_customer_and_an_unknown_session_are_stored() -> None:
    bench = Bench()
    batch = closed(1), customers(2), of_session("unknown-session", 3)
    await bench.process(*batch)
    assert bench.outcomes == {"stored": 3}
    assert not bench.publisher.taken
    bench.assert_settled(*batch)


async def test_what_the_hub_returns_is_stored_and_the_cache_forgets_the_conversation() -> None:
    bench = Bench()
    await bench.process(live(1))
    assert bench.cache.by_conversation(LIVE, bench.clock.monotonic())
    bench.publisher.unbound.add(LIVE)
    await bench.process(live(2))
    assert bench.cache.by_conversation(LIVE, bench.clock.monotonic()) is None
    assert event_id("app-1", "m-2") in bench.store.digests
    assert bench.outcomes == {"published": 1, "stored": 1}


async def test_what_the_hub_returns_is_stored_as_the_very_event_that_was_published() -> None:
    bench = Bench()
    published: list[Outgoing] = []
    stored: list[Activity] = []

    async def unroutable(messages: Sequence[Outgoing]) -> list[Receipt]:
        published.extend(messages)
        bench.clock.ms += 60_000
        return [Receipt.RETURNED] * len(messages)

    async def keep(activities: Sequence[Activity], now_ms: int) -> list[StoreResult]:
        assert now_ms == bench.clock.ms
        stored.extend(activities)
        return [Written.STORED] * len(activities)

    bench.publisher.publish = unroutable  # type: ignore[method-assign]
    bench.store.store = keep  # type: ignore[method-assign]
    await bench.process(live(1), of_session("live-session", 2), live(3, timestamp=None))
    assert len(published) == 3
    assert [activity.event_bytes() for activity in stored] == [one.body for one in published]


async def test_events_keep_their_order_though_the_registry_was_asked_about_some_only() -> None:
    bench = Bench()
    bench.registry.records["other"] = record("other", "ACTIVE", "other-session")
    await bench.process(live(1))
    others = [delivery(message(number, conversationId="other")) for number in (2, 4)]
    await bench.process(others[0], live(3), others[1], live(5))
    assert [one.correlation_id for one in bench.publisher.taken] == ["m-1", "m-2", "m-3", "m-4", "m-5"]


async def test_the_same_again_is_a_duplicate_within_a_batch_and_later() -> None:
    bench = Bench()
    batch = [customers(1), customers(1), customers(1)]
    await bench.process(*batch)
    await bench.process(again := customers(1))
    assert bench.outcomes == {"stored": 1, "duplicate": 3}
    bench.assert_settled(*batch, again)


async def test_the_same_id_with_another_payload_is_a_conflict_and_dead() -> None:
    bench = Bench()
    await bench.process(closed(1, "first"), closed(1, "second"))
    assert bench.outcomes == {"stored": 1, "dead": 1}
    assert bench.codes == ["payload_conflict"]
    assert b"second" in bench.letters[0].body


async def test_what_the_store_refuses_for_good_is_dead_and_its_neighbours_are_stored() -> None:
    bench = Bench()
    bench.store.refuses["m-2"] = NEVER
    await bench.process(*(customers(number) for number in range(4)))
    assert bench.outcomes == {"stored": 3, "dead": 1}
    assert bench.codes == ["store_rejected"]


# -- invalid ----------------------------------------------------------------------------------------------------------


async def test_one_bad_message_never_fails_its_neighbours() -> None:
    bench = Bench()
    bodies = [b"", b"\xff", b"{", b"[]", b"null", b"{}", b"x" * 10_001, b"[" * 5000, b'{"a":NaN}', message("no anchor")]
    bad = [delivery(body) for body in bodies]
    good = [live(number) for number in range(len(bad))]
    batch = [one for pair in zip(bad, good, strict=True) for one in pair]
    await bench.process(*batch)
    assert bench.outcomes == {"dead": len(bad), "published": len(good)}
    assert [one.body for one in bench.letters] == bodies
    assert {*bench.codes} >= {"malformed_json", "invalid_utf8", "not_an_object", "message_too_large", "missing_anchor"}
    bench.assert_settled(*batch)


async def test_a_dead_letter_names_who_sent_what() -> None:
    bench = Bench()
    await bench.process(delivery(message("7")))
    (who,) = bench.notebook.identities
    assert (who.sender_id, who.sender_name, who.message_id) == ("app-1", "App", "m-7")
    assert bench.notebook.letters == [("missing_anchor", 1, False)]


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
    bench = Bench(max_attempts=2)
    last_try = live(2, "bug")
    last_try.properties.headers[contract.ATTEMPT] = 2
    await bench.process(live(1, "bug"), last_try, live(3))
    assert bench.outcomes == {"retry": 1, "dead": 1, "published": 1}
    assert bench.codes == ["unexpected_error"]
    assert "payload must not travel" not in str([one.headers for one in bench.publisher.taken])


# -- retries ----------------------------------------------------------------------------------------------------------


async def test_what_the_broker_refuses_is_retried_in_growing_tiers_until_attempts_are_used_up() -> None:
    bench = Bench(max_attempts=3)
    bench.publisher.full.add(LIVE)
    one = live(1)
    for attempt, tier in ((1, "1s"), (2, "10s")):
        await bench.process(one)
        (copy,) = bench.at(contract.retry_queue(tier), "")
        assert (copy.headers or {})[contract.ATTEMPT] == attempt + 1
        assert copy.body == one.body
        one = FakeDelivery(copy.body, Properties(headers=dict(copy.headers or {})), exchange="")
    await bench.process(one)
    assert bench.outcomes == {"retry": 2, "dead": 1}
    assert bench.codes == ["publish_rejected"]
    assert bench.notebook.letters == [
        ("publish_rejected", 1, True),
        ("publish_rejected", 2, True),
        ("publish_rejected", 3, False),
    ]
    assert (bench.letters[0].headers or {})[contract.ATTEMPT] == 3


async def test_a_refusal_nobody_listed_is_retried() -> None:
    bench = Bench()
    bench.store.refuses["m-1"] = PERHAPS
    await bench.process(customers(1), customers(2))
    assert bench.outcomes == {"retry": 1, "stored": 1}


async def test_a_bug_in_the_stores_adapter_retries_the_bundle() -> None:
    bench = Bench()
    bench.store.bug = KeyError("x")
    await bench.process(customers(1), customers(2), live(3))
    assert bench.outcomes == {"retry": 2, "published": 1}


@pytest.mark.parametrize("trouble", ["full", "unbound"])
async def test_a_delivery_is_not_settled_before_its_copy_is_confirmed(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_REFUSED_PAUSE_SECONDS", 0.01)
    bench = Bench()
    blocked = getattr(bench.publisher, trouble)
    blocked.add("")  # the dead-letter exchange is published to with an empty key
    await bench.process(delivery(b"bad"), live(1))
    assert bench.outcomes == {"published": 1}
    assert bench.notebook.troubles[0][0] == "copies_refused"
    blocked.clear()
    await eventually_async(lambda: bench.outcomes == {"published": 1, "dead": 1}, seconds=5)
    assert len(bench.letters) == 1


# -- unknown effects --------------------------------------------------------------------------------------------------


async def test_what_is_of_unknown_effect_stays_unsettled() -> None:
    bench = Bench()
    bench.publisher.lost = True
    await bench.process(live(1), delivery(b"bad"), customers(3))
    assert bench.outcomes == {"stored": 1}
    assert bench.received - len(bench.settled) == 2


async def test_an_event_of_unknown_effect_is_no_failure_and_makes_no_copy() -> None:
    bench = Bench()

    async def lost(messages: Sequence[Outgoing]) -> list[Receipt]:
        assert {one.exchange for one in messages} == {contract.HUB}
        return [Receipt.UNKNOWN] * len(messages)

    bench.publisher.publish = lost  # type: ignore[method-assign]
    await bench.process(live(1), live(2))
    assert not bench.settled
    assert not bench.notebook.letters


# -- the store is away ------------------------------------------------------------------------------------------------


async def test_while_the_store_is_away_its_messages_wait_and_spend_no_attempt() -> None:
    bench = Bench()
    bench.store.away = True
    batch = [customers(number) for number in range(12)]
    await bench.process(*batch)
    assert not bench.settled
    assert not bench.publisher.taken
    assert not bench.gate.is_open
    bench.store.away = False
    bench.back.set()
    await eventually_async(lambda: bench.outcomes == {"stored": 12}, seconds=5)
    bench.assert_settled(*batch)


async def test_while_the_registry_is_away_named_conversations_go_on_and_sessions_wait() -> None:
    bench = Bench(cache_ms=0)
    bench.registry.away = True
    bench.publisher.unbound.add(CLOSED)
    await bench.process(live(1), of_session("live-session", 2), closed(3))
    assert bench.outcomes == {"published": 1}, "the one for the closed conversation was returned and waits as well"
    bench.registry.away = False
    bench.back.set()
    await eventually_async(lambda: bench.outcomes == {"published": 2, "stored": 1}, seconds=5)


async def test_a_remembered_conversation_needs_no_registry() -> None:
    bench = Bench()
    await bench.process(live(1))
    bench.registry.away = True
    await bench.process(live(2), of_session("live-session", 3))
    assert bench.outcomes == {"published": 3}
    assert len(bench.registry.questions) == 1
    assert bench.gate.is_open


async def test_a_registry_that_does_not_answer_in_time_counts_as_away() -> None:
    bench = Bench()
    asked = asyncio.Event()

    async def silence(*_: object) -> Any:
        asked.set()
        await asyncio.Event().wait()

    bench.registry.lookup = silence  # type: ignore[method-assign,assignment]
    await bench.process(live(1))
    assert asked.is_set()
    assert bench.outcomes == {"published": 1}
    assert bench.gate.failure is not None
    assert bench.gate.failure.code is Code.STORE_UNAVAILABLE


async def test_a_record_nobody_can_read_retries_the_works_that_asked_for_it_only() -> None:
    bench = Bench()
    await bench.process(live(0))
    bench.registry.bug = TypeError("a record of another kind")
    await bench.process(delivery(message(1, conversationId="other")), of_session("s", 2), customers(3), live(4))
    assert bench.outcomes == {"retry": 2, "stored": 1, "published": 2}
    assert bench.gate.is_open


async def test_what_was_on_its_way_to_the_store_when_it_went_away_does_not_fill_the_window_either() -> None:
    bench = Bench(waiting=5)
    bench.store.away = True
    await bench.process(*(customers(number) for number in range(20)))
    assert bench.outcomes == {"retry": 15}
    bench.store.away = False
    bench.back.set()
    await eventually_async(lambda: bench.outcomes == {"retry": 15, "stored": 5}, seconds=5)


async def test_in_an_outage_only_so_many_wait_here_and_the_rest_in_the_broker_with_no_attempt_spent() -> None:
    bench = Bench(waiting=3)
    bench.store.away = bench.registry.away = True
    await bench.process(customers("closes the gate"))
    await bench.process(*(customers(number) for number in range(6)), *(of_session("s", f"s{n}") for n in range(6)))
    assert bench.outcomes == {"retry": 10}, "one and two more wait here"
    aside = bench.at(contract.retry_queue("10s"), "")
    assert {(one.headers or {})[contract.ATTEMPT] for one in aside} == {1}
    await bench.process(live(1))
    assert bench.outcomes == {"retry": 10, "published": 1}, "live traffic goes on"
    bench.store.away = bench.registry.away = False
    bench.back.set()
    await eventually_async(lambda: bench.outcomes["stored"] == 3, seconds=5)


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
    bench = Bench(alice="app-1|app-2")
    await bench.process(one)
    assert bench.outcomes == {"published" if allowed else "dead": 1}
    assert bench.codes == ([] if allowed else ["sender_not_allowed"])


async def test_without_a_table_anybody_may_send_and_the_checked_user_travels() -> None:
    bench = Bench()
    await bench.process(as_user("bob"), as_user(None, "x"))
    assert bench.outcomes == {"published": 2}
    assert (bench.at(LIVE)[0].headers or {})[contract.USER_ID] == "bob"


# -- accounts and ends ------------------------------------------------------------------------------------------------


async def test_received_is_outcomes_plus_in_flight_at_every_moment() -> None:
    bench = Bench()
    kinds: Sequence[Any] = (
        live,
        closed,
        customers,
        lambda _: delivery(b"bad"),
        lambda n: of_session("live-session", n),
    )
    bench.store.refuses["m-7"] = PERHAPS
    held: list[Outgoing] = []
    real = bench.publisher.publish

    async def watched(messages: Sequence[Outgoing]) -> list[Receipt]:
        assert bench.received == sum(bench.outcomes.values()) + (bench.received - len(bench.settled))
        held.extend(messages)
        return await real(messages)

    bench.publisher.publish = watched  # type: ignore[method-assign]
    for start in range(0, 40, 8):
        await bench.process(*(kinds[number % 5](number) for number in range(start, start + 8)))
    assert sum(bench.outcomes.values()) == bench.received == 40
    assert len(held) == len(bench.publisher.taken)


async def test_stopping_abandons_what_is_in_work_and_settles_nothing_more() -> None:
    bench = Bench()
    bench.store.away = True
    await bench.process(customers(1))
    await bench.pipeline.stop()
    bench.store.away = False
    bench.back.set()
    await eventually_async(lambda: bench.gate.is_open, seconds=5)
    await bench.process(customers(2))
    assert not bench.settled


async def test_a_bug_in_a_lane_is_shown_and_not_swallowed() -> None:
    bench = Bench()

    async def broken(messages: Sequence[Outgoing]) -> list[Receipt]:
        raise ZeroDivisionError(str(len(messages)))

    bench.publisher.publish = broken  # type: ignore[method-assign]
    await bench.pipeline.process([delivery(b"bad")])
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(bench.pipeline.bug, 5)
    assert not bench.settled
