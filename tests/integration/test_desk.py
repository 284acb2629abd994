"""The desk's functions on a real store, with a broker that does what the test says."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from bson.objectid import ObjectId

from tests.contract.store.examples import letter
from tests.support.eventually import eventually_async
from tests.support.fakes import FakePublisher
from worker.cim import parse
from worker.conversations.conversation import Fact
from worker.conversations.lifecycle import LifecycleChange
from worker.dead_letters.letter import Status
from worker.dead_letters.outcomes import ReplayOutcome
from worker.desk.audit import Action, lines_of, revealed
from worker.desk.decide import discard, purge, restore
from worker.desk.desk import Who
from worker.desk.details import details
from worker.desk.edit import edit, fix, parse_rules, preview
from worker.desk.errors import DeskError
from worker.desk.filter import parse_filter
from worker.desk.jobs import cancel, job
from worker.desk.jobs import job as job_of
from worker.desk.options import Allowed, Options
from worker.desk.plan import forecast_all, plan
from worker.desk.ports import Published
from worker.desk.query import PAGE, count, groups, lineage, none_found
from worker.desk.replay import replay, resume
from worker.desk.sending import AGAIN, PageSender
from worker.desk.steps import Control, Interrupted
from worker.desk.transfer import export, import_
from worker.failure import StoreUnavailable, store_silent
from worker.mongo.client import connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.letters import LetterCollection
from worker.mongo.registry import Registry
from worker.opening import desk_on
from worker.ports import Confirmation
from worker.process.clock import SystemClock
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from tests.services.services import Store
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.ports import Actions, Change, Query
    from worker.mongo.client import Store as OpenStore
    from worker.ports import Clock, Outgoing

T0 = 1_760_000_000_000
AT_ONCE = Options(wait_seconds=0)


@asynccontextmanager
async def opened(store: Store, database: str) -> AsyncIterator[tuple[Desk, OpenStore]]:
    connected = connect(store.uri, database)
    try:
        yield desk_on(connected, load_settings(), Who("anna"), SystemClock()), connected
    finally:
        await connected.close()


def died(name: str, at: int = T0, body: bytes | None = None, **fields: Any) -> LetterRecord:
    """Return a letter of a message to a customer, or with the header *fields* that begin with a small letter."""
    header = fields.pop("header", {"customer": {"_id": "u-1"}})
    message = {"id": name, "header": {"sender": {"id": "app", "type": "APP"}, "timestamp": at, **header}}
    text = json.dumps({**message, "body": {"type": "PLAIN", "markdownText": "hello"}}).encode()
    known = {"origin_queue": "cim.ingress", "origin_routing_key": "key", "last_seen": at, "message_id": name}
    return letter(len(name) * 1000 + at % 1000, text if body is None else body, **{**known, **fields})


async def days_left(connected: OpenStore, since: datetime | None = None) -> dict[str, int | None]:
    """Return how many days after *since*, or now, each letter is deleted, by its message; None: never."""
    now = since or datetime.now(UTC)
    found = await connected.collection("dead_letters").find().to_list(None)
    at = {one["messageId"]: one.get("expiresAt") for one in found}
    # The embedded server gives a date back as text.
    return {name: None if one is None else round((_date(one) - now) / timedelta(days=1)) for name, one in at.items()}


def _date(value: datetime | str) -> datetime:
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).replace(tzinfo=UTC)


def everything(**words: str) -> Filter:
    return parse_filter(words, now=T0)


class Workers:
    """A broker whose workers settle what is published at once, unless they are told otherwise."""

    def __init__(self, letters: DeadLetterStore, **outcomes: str) -> None:
        self.letters = letters
        self.outcomes = outcomes
        self.published: list[str] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        for message in messages:
            name = json.loads(message.body)["id"]
            self.published.append(name)
            outcome = self.outcomes.get(name, "stored")
            status = Status.DIED_AGAIN if outcome == "dead" else Status.SETTLED
            headers = message.headers or {}
            of, job = str(headers["cim-replay-of"]), str(headers["cim-replay-job"])
            await self.letters.write_outcomes([ReplayOutcome(of, job, status, outcome, "", T0)])
        return [Confirmation.CONFIRMED] * len(messages)


async def test_a_cause_whose_letters_were_purged_is_not_new_when_it_comes_again(store: Store, database: str) -> None:
    now = SystemClock().now_ms()
    times: dict[str, Any] = {"first_seen": now - 3 * 86_400_000, "last_seen": now - 3 * 86_400_000, "recorded_at": now}
    old = replace(died("m-1", code="malformed_json", fingerprint="a" * 12), **times)
    recent: dict[str, Any] = {"first_seen": now, "recorded_at": now}
    again = replace(died("m-22", now, fingerprint="a" * 12), **recent)
    fresh = replace(died("m-333", now, fingerprint="b" * 12), **recent)
    async with opened(store, database) as (desk, connected):
        recorder = DeadLetterStore(connected)
        await recorder.record([old], {})
        await purge(desk, everything(code="malformed_json"), "gone")
        await recorder.record([again, fresh], {})

        found = {one.fingerprint: one.is_new for one in await groups(desk, everything())}

    assert found == {"a" * 12: False, "b" * 12: True}


async def test_a_plan_says_what_todays_code_would_do_and_touches_nothing(store: Store, database: str) -> None:
    letters = [
        died("alone"),
        died("stored already"),
        died("live", header={"conversationId": "c-live"}),
        died("closed", header={"conversationId": "c-closed"}),
        died("unheard-of", header={"conversationId": "c-none"}),
        died("session", header={"channelSessionId": "s-none"}),
        died("another reason", header={}),
        died("an event", body=b"{}", origin_queue="cim.conversation-events"),
        died("from nowhere", origin_queue=""),
        died("too often", replays=5),
    ]
    async with opened(store, database) as (desk, connected):
        registry = Registry(connected)
        for name, state in (("c-live", "ACTIVE"), ("c-closed", "CLOSED")):
            await registry.apply(LifecycleChange(name, "TOPIC_STATE_CHANGED", T0, state=Fact(state, T0)))
        await _stored(connected, letters[1])
        await LetterCollection(connected).insert(letters)
        before = await connected.collection("dead_letters").find().to_list(None)

        made = await plan(desk, everything())

        assert await connected.collection("dead_letters").find().to_list(None) == before
        again = await plan(desk, everything(), limit=3)

    assert made.predictions == {
        "would_publish": 1,
        "would_store": 4,
        "duplicate": 1,
        "fails_anew": 2,
        "no_way_back": 1,
        "replayed_too_often": 1,
    }
    assert made.stored_because == {"stand_alone": 1, "closed": 1, "unknown_conversation": 1, "unknown_session": 1}
    assert {code for _, code, _ in made.failures} >= {"missing_anchor"}
    assert (made.letters, again.letters) == (10, 3)


async def _stored(connected: OpenStore, one: LetterRecord) -> None:
    """Put the activity of a letter into the store."""
    event_id = parse(one.body, received_at=T0).identity.event_id
    await connected.collection("ConversationActivities").insert_one({"_id": ObjectId(event_id)})


class _WithoutBodies(LetterCollection):
    """Letters of which nobody may ask for whole ones."""

    async def some(self, query: Query, limit: int) -> list[LetterRecord]:
        raise AssertionError((query, limit))


async def test_a_plan_of_many_letters_lets_others_of_its_process_work(store: Store, database: str) -> None:
    turns, looked_at = 0, asyncio.Event()

    async def other() -> None:
        nonlocal turns
        while not looked_at.is_set():
            turns += 1
            await asyncio.sleep(0)

    async with opened(store, database) as (desk, _):
        waiting = asyncio.create_task(other())
        forecasts = await forecast_all(desk, [died("m", T0, body=b"no message") for _ in range(500)])  # asks nobody
        looked_at.set()
        await waiting
    assert len(forecasts) == 500
    assert turns >= 20


async def test_causes_and_lineages_are_told_without_fetching_a_body(store: Store, database: str) -> None:
    older, newest = died("m-1", T0), died("m-22", T0 + 5, code="wrong_type")
    first = died("first", T0 + 2, fingerprint="f" * 12, replays=1)
    second = died("second", T0 + 5, fingerprint="e" * 12, replay_of=first.id)
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([older, newest, first, second, died("m-333", T0 + 2)])
        light = replace(desk, letters=_WithoutBodies(connected))

        causes = {one.fingerprint: one for one in await groups(light, everything())}
        chains = [await lineage(light, one) for one in (first, second)]

    assert causes[newest.fingerprint].sample == newest.id  # others died when the newest of another cause did
    assert causes[newest.fingerprint].code == "wrong_type"
    assert causes[first.fingerprint].sample == first.id
    assert [[one.id for one in chain] for chain in chains] == [[first.id, second.id]] * 2


async def test_letters_of_a_conversation_go_one_after_the_other_and_those_that_are_outdated_stay(
    store: Store, database: str
) -> None:
    letters = [
        died(f"c-{name}", T0 + at, header={"conversationId": "c"}) for name, at in (("3", 3), ("1", 1), ("2", 2))
    ]
    dying = [died(f"d-{number}", T0 + number, header={"conversationId": "d"}) for number in range(3)]
    outdated = died("outdated", T0, header={"conversationId": "e"})
    async with opened(store, database) as (desk, connected):
        newer = {"conversationId": "e", "activity": {"data": {"header": {"timestamp": T0 + 1}}}}
        await connected.collection("ConversationActivities").insert_one(newer)
        await LetterCollection(connected).insert([*letters, *dying, outdated])
        workers = Workers(DeadLetterStore(connected), **{"d-1": "dead"})

        job = await replay(desk, workers, None, everything(), "in order", Options(keep_order=True))

        assert await desk.letters.counts({}, "status") == {"settled": 4, "died_again": 1, "open": 2}
    assert [name for name in workers.published if name.startswith("c")] == ["c-1", "c-2", "c-3"]
    assert [name for name in workers.published if name.startswith("d")] == ["d-0", "d-1"]
    assert job.counts == {
        "sent": 5,
        "held: its conversation has newer activities": 1,
        "held: the one before it died again": 1,
    }


async def test_a_letter_waits_while_newer_activities_of_its_conversation_were_published(
    store: Store, database: str
) -> None:
    names = ("busy", "quiet", "replayed")
    letters = [died(name, T0, header={"conversationId": name}, first_seen=T0, conversation_id=name) for name in names]
    settled: dict[str, Any] = {"status": "settled", "outcome": "published", "conversation_id": "replayed"}
    alone = died("of nobody", T0, first_seen=T0)
    async with opened(store, database) as (desk, connected):
        later = died("later", T0 + 9, first_seen=T0 + 9, **settled)
        await LetterCollection(connected).insert([*letters, alone, later])
        workers = Workers(DeadLetterStore(connected))

        job = await replay(desk, workers, Journal(), everything(), "in order", Options(keep_order=True))
        blind = await replay(desk, workers, None, everything(), "in order", Options(keep_order=True))

    assert sorted(workers.published) == ["busy", "of nobody", "quiet"]
    assert job.counts == {"sent": 2, "held: its conversation has newer activities": 2}
    assert job.document["order"] == (
        "what was published before 2025-10-09T08:53:20.010Z is not known: the journal was read no further; "
        "the conversation of 1 of the letters is not known: they keep no order"
    )
    assert "the journal cannot be read" in blind.document["order"]


class _SlowWorkers(Workers):
    """Workers that settle a message a while after the broker has confirmed it."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        self.settling = asyncio.create_task(self._settle(messages))
        return [Confirmation.CONFIRMED] * len(messages)

    async def _settle(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0.5)
        await super().publish(messages)


async def test_the_next_letter_of_a_conversation_waits_for_the_outcome_of_the_one_before(
    store: Store, database: str
) -> None:
    header = {"conversationId": "c-1"}
    async with opened(store, database) as (desk, connected):
        workers = _SlowWorkers(DeadLetterStore(connected))
        await LetterCollection(connected).insert(
            [died("m-22", T0 + 2, header=header), died("m-1", T0 + 1, header=header)]
        )

        job = await replay(desk, workers, None, everything(), "in order", Options(keep_order=True))
        await workers.settling

    assert (job.counts, workers.published) == ({"sent": 2}, ["m-1", "m-22"])


async def test_what_was_replayed_too_often_is_refused_unless_forced(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1", replays=desk.max_replays), died("m-22", replays=1)])

        job = await replay(desk, FakePublisher(), None, everything(), "r", AT_ONCE)
        assert job.counts == {"replayed_too_often": 1, "sent": 1}
        forced = await replay(desk, FakePublisher(), None, everything(), "r", replace(AT_ONCE, force=True))
        assert forced.counts == {"sent": 1}


async def test_what_follows_a_letter_that_did_not_arrive_is_held(store: Store, database: str) -> None:
    letters = [died(f"{name}-{at}", T0 + at, header={"conversationId": name}) for name in "cde" for at in range(3)]
    ids = {one.message_id: one.id for one in letters}

    class Some(Workers):
        """Return what is for nobody; somebody else takes a letter while they work."""

        async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
            there = [one for one in messages if json.loads(one.body)["id"] != "c-0"]
            await super().publish(there)
            taken = {"jobId": "theirs", "status": "sending"}
            await connected.collection("dead_letters").update_one({"_id": ids["d-1"]}, {"$set": taken})
            return [Confirmation.CONFIRMED if one in there else Confirmation.RETURNED for one in messages]

    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert(letters)
        workers = Some(DeadLetterStore(connected))

        job = await replay(desk, workers, None, everything(), "in order", Options(keep_order=True))

    assert sorted(workers.published) == ["d-0", "e-0", "e-1", "e-2"]
    assert job.document["state"] == "done"
    assert job.counts == {
        "sent": 4,
        "returned": 1,
        "taken by others": 1,
        "held: the one before it came back returned": 2,
        "held: the one before it was taken or changed by others": 1,
    }


async def test_a_ramp_waits_for_outcomes_and_stops_when_too_many_die_again(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}", T0 + number) for number in range(30)])
        workers = Workers(DeadLetterStore(connected), **{f"m-{number}": "dead" for number in range(30)})
        options = Options(ramp=(1, 5, 10), max_failures=Allowed(3, is_percent=False))

        job = await replay(desk, workers, None, everything(), "careful", options)

    assert (job.document["state"], job.counts["sent"]) == ("stopped", 6)
    assert job.document["why"] == "5 of the last 5 letters died again, 3 are allowed"
    assert job.document["outcomes"] == {"died_again": 6}


class _LateOutcomes:
    """Actions that write the next outcomes of a job each time it looks whether it shall stop."""

    def __init__(self, actions: Actions, letters: DeadLetterStore, *batches: dict[str, Status]) -> None:
        self._actions = actions
        self._letters = letters
        self._batches = list(batches)

    async def get(self, action_id: str) -> dict[str, Any] | None:
        batch = self._batches.pop(0) if self._batches else {}
        if batch:
            known = [ReplayOutcome(one, action_id, status, "", "", T0) for one, status in batch.items()]
            await self._letters.write_outcomes(known)
        return await self._actions.get(action_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actions, name)


class _Hurried:
    """A clock by which every look at it takes a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds = 100.0

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def monotonic(self) -> float:
        self._seconds += 1
        return self._seconds


async def test_letters_that_die_late_are_counted_against_their_whole_step(store: Store, database: str) -> None:
    letters = [died(f"m-{number}", T0 + number) for number in range(40)]
    first, second, *others = (one.id for one in letters)
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert(letters)
        settled = dict.fromkeys(others, Status.SETTLED)
        late: list[dict[str, Status]] = [{}, {first: Status.DIED_AGAIN}, {second: Status.DIED_AGAIN}, settled]
        actions = _LateOutcomes(desk.actions, DeadLetterStore(connected), *late)
        slow = replace(desk, actions=actions, clock=_Hurried(desk.clock))

        job = await replay(slow, FakePublisher(), None, everything(), "r", Options(ramp=(40,)))

    assert (job.document["state"], job.document["why"]) == ("done", "")
    assert job.document["outcomes"] == {"settled": 38, "died_again": 2}


async def test_deaths_of_a_step_add_up_however_late_each_is(store: Store, database: str) -> None:
    letters = [died(f"m-{number}", T0 + number) for number in range(40)]
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert(letters)
        late = [{}, *({one.id: Status.DIED_AGAIN} for one in letters[:10])]
        actions = _LateOutcomes(desk.actions, DeadLetterStore(connected), *late)
        slow = replace(desk, actions=actions, clock=_Hurried(desk.clock))
        options = Options(ramp=(40,), max_failures=Allowed(3, is_percent=False))

        job = await replay(slow, FakePublisher(), None, everything(), "r", options)

    assert job.document["state"] == "stopped"
    assert job.document["why"] == "4 of the last 40 letters died again, 3 are allowed"


async def test_a_ramp_that_was_stopped_goes_on_once_what_was_wrong_is_mended(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}", T0 + number) for number in range(30)])
        workers = Workers(DeadLetterStore(connected), **{f"m-{number}": "dead" for number in range(30)})
        job = await replay(desk, workers, None, everything(), "r", Options(ramp=(1, 5, 10), max_failures=Allowed(90)))
        assert (job.document["state"], job.counts["sent"]) == ("stopped", 1)
        workers.outcomes.clear()

        resumed = await resume(desk, workers, None, job.id)

    assert (resumed.document["state"], resumed.document["why"]) == ("done", "")
    assert resumed.document["outcomes"] == {"settled": 29, "died_again": 1}


async def test_a_ramp_is_kept_and_stops_in_the_order_of_conversations_too(store: Store, database: str) -> None:
    letters = [died(f"{name}-{at}", T0 + at, header={"conversationId": name}) for name in "cde" for at in range(2)]
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert(letters)
        workers = Workers(DeadLetterStore(connected), **{one.message_id: "dead" for one in letters})
        options = Options(ramp=(1, 2), keep_order=True)

        job = await replay(desk, workers, None, everything(), "r", options)
        assert (job.document["state"], job.counts["sent"], len(workers.published)) == ("stopped", 1, 1)
        workers.outcomes.clear()
        resumed = await resume(desk, workers, None, job.id)

    assert resumed.document["outcomes"] == {"died_again": 1, "settled": 5}


async def test_a_job_that_stopped_goes_on_in_another_way_if_that_is_asked_for(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}", T0 + number) for number in range(6)])
        workers = Workers(DeadLetterStore(connected), **{f"m-{number}": "dead" for number in range(6)})
        job = await replay(desk, workers, None, everything(), "r", Options(ramp=(1,)))
        assert job.document["state"] == "stopped"

        changes = {"ramp": (2,), "max_failures": Allowed(9, is_percent=False), "rate": 100.0}
        resumed = await resume(desk, workers, None, job.id, changes=changes)

        assert (resumed.document["state"], resumed.counts["sent"]) == ("done", 6)
        written = await job_of(desk, job.id)
    assert (written["ramp"], written["maxFailures"], written["rate"]) == ([2], "9", 100.0)


async def test_a_ramp_stops_when_nobody_settles(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}") for number in range(3)])

        job = await replay(desk, FakePublisher(), None, everything(), "r", Options(ramp=(1,), wait_seconds=0.1))

        assert await desk.letters.counts({}, "status") == {"replayed": 1, "open": 2}
    assert job.document["why"].startswith("1 of the letters sent have no outcome after 0.1 s: they are retried or wait")


async def test_what_comes_back_stays_open_and_is_not_counted_as_a_replay(store: Store, database: str) -> None:
    publisher = FakePublisher()
    publisher.unbound.add("key")
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1"), died("m-22")])

        job = await replay(desk, publisher, None, everything(), "r", AT_ONCE)

        (one, _) = await desk.letters.some({}, 2)
    assert (job.document["state"], job.counts) == ("stopped", {"returned": 2})
    assert "run `cim-worker topology apply`" in job.document["why"]
    assert (one.status, one.replays, one.job_id) == ("open", 0, "")


async def test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open(store: Store, database: str) -> None:
    letter, dead = died("m-1"), died("m-22")
    settled_at = datetime.fromtimestamp(T0 / 1000, UTC)
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([letter, dead])
        recorder = DeadLetterStore(connected, retention_ms=desk.retention_ms)

        assert await days_left(connected) == {"m-1": None, "m-22": None}
        await discard(desk, everything(message="m-1"), "r")
        assert await days_left(connected) == {"m-1": 30, "m-22": None}
        await restore(desk, everything(message="m-1"), "r")
        assert await days_left(connected) == {"m-1": None, "m-22": None}

        await replay(desk, Workers(recorder, **{"m-22": "dead"}), None, everything(), "r")
        assert await days_left(connected, settled_at) == {"m-1": 30, "m-22": 30}
        await recorder.record([letter], {})  # it died once more, and nothing says that it is a replay
        assert await days_left(connected, settled_at) == {"m-1": None, "m-22": 30}
        (again,) = await desk.letters.some({"_id": letter.id}, 1)
        assert again.replays == 1  # still counted: who loses the lineage does not get past the limit


class Journal:
    """A journal that knows some replays, and what else was published."""

    def __init__(self, **known: tuple[str, str]) -> None:
        self.known = known

    async def outcomes_of(self, jobs: Mapping[str, str], since: int) -> dict[str, tuple[str, str]]:
        assert since < T0 * 2
        return {one: self.known[one] for one in jobs if one in self.known}

    async def published(self, conversation_ids: Collection[str], since: int) -> Published:
        newest = {"busy": T0 + 50, "quiet": T0 - 50}
        return Published({one: newest[one] for one in conversation_ids if one in newest}, since + 10, is_complete=True)


async def test_letters_are_opened_again_in_one_way_whoever_does_it(store: Store, database: str) -> None:
    decided: dict[str, Any] = {"job_id": "job", "outcome": "dead", "successor": "s", "reason": "r", "status_at": T0}
    restored, imported = died("m-1", status="died_again", **decided), died("m-22", status="died_again", **decided)
    async with opened(store, database) as (desk, connected):
        began = desk.clock.now_ms()
        await LetterCollection(connected).insert([restored, imported])
        lines = [line async for line in export(desk, everything(message="m-22", status="any"), reveal=True)]
        await desk.letters.delete([imported.id])

        await restore(desk, everything(message="m-1", status="died_again"), "r")
        await import_(desk, [line.encode() for line in lines], "r")

        found = await desk.letters.some({}, 2)
    assert len(found) == 2
    for one in found:
        assert (one.status, one.job_id, one.outcome, one.successor, one.reason) == ("open", "", "", "", "")
        assert one.status_at is not None
        assert one.status_at >= began


async def test_of_two_people_who_edit_a_letter_at_the_same_time_one_does(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        letter = died("m-1")
        await LetterCollection(connected).insert([letter])
        together = replace(desk, letters=_LettersReadTogether(connected))
        both = [edit(together, letter.id, letter.body.replace(b"hello", word)) for word in (b"mine", b"yours")]
        ends = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 30)
        (kept,) = await desk.letters.some({}, 1)

    (refused,) = [one for one in ends if isinstance(one, DeskError)]
    assert "was changed by somebody else meanwhile" in str(refused)
    assert (b"mine" in kept.body) == (ends[1] is refused)
    assert kept.revision == 1


async def test_a_change_without_a_reason_is_refused(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1")])
        with pytest.raises(DeskError, match="reason"):
            await discard(desk, everything(), " ")
        assert await days_left(connected) == {"m-1": None}


@pytest.mark.parametrize("status", ["settled", "any", "open,discarded"])
async def test_only_open_letters_are_changed_and_a_filter_that_names_others_changes_none(
    store: Store, database: str, status: str
) -> None:
    rules = parse_rules(set_=["body.x=1"])
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1"), died("m-22", status="settled")])
        chosen = everything(status=status)
        for done, change in (
            ("discarded", discard(desk, chosen, "r")),
            ("fixed", fix(desk, chosen, rules, "r")),
            ("fixed", preview(desk, chosen, rules)),
            ("replayed", replay(desk, FakePublisher(), None, chosen, "r", AT_ONCE)),
        ):
            with pytest.raises(DeskError, match=f"only open letters can be {done}: leave --status={status} out, or"):
                await change

        assert await desk.letters.counts({}, "status") == {"open": 1, "settled": 1}
        assert await desk.actions.latest(1) == []


async def test_when_no_letter_is_found_those_of_another_status_are_named(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1", status="settled"), died("m-22", status="discarded")])

        found = await none_found(desk, everything(code="malformed_json"))
        assert found == "no letters: --code=malformed_json; of another status: 1 discarded, 1 settled (--status any)"
        assert await none_found(desk, everything(sender="nobody")) == "no letters: --sender=nobody"


async def test_whatever_works_on_many_letters_can_be_cancelled(store: Store, database: str) -> None:
    many = [died(f"m-{number}", T0 + number) for number in range(PAGE + 1)]
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert(many)
        lines = [line.encode() async for line in export(desk, everything(), reveal=True)]
        cancelled = replace(desk, actions=_CancelledByBerta(desk.actions))
        for begun in (
            import_(cancelled, lines, "r"),
            fix(cancelled, everything(), parse_rules(set_=["body.x=1"]), "r"),
            discard(cancelled, everything(), "r"),
            purge(cancelled, everything(status="any"), "r"),
        ):
            action = await begun
            assert (action.document["state"], action.document["why"]) == ("cancelled", "cancelled by berta")
            assert action.counts.total() == PAGE
        assert sum((await desk.letters.counts({}, "status")).values()) == 1


class _CancelledByBerta:
    """Actions that somebody has asked to stop."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions

    async def get(self, action_id: str) -> dict[str, Any] | None:
        found = await self._actions.get(action_id)
        return None if found is None else {**found, "cancelledBy": "berta"}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actions, name)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"[]",
        b'{"redacted": false}',
        b"\xff",
        b'{"id": 1, "code": 2}',
    ],
    ids=["deep", "a list", "empty", "no text", "numbers"],
)
async def test_a_line_that_is_no_letter_is_named_and_nothing_is_imported(
    store: Store, database: str, line: bytes
) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1")])
        (good,) = [one async for one in export(desk, everything(), reveal=True)]
        await desk.letters.delete([died("m-1").id])
        strange = json.dumps({**json.loads(good), "count": "many"}).encode()
        for bad in (line, strange, good.replace(died("m-1").id, "../letter").encode()):
            with pytest.raises(DeskError, match="line 2 is no letter that `dead-letters export` wrote; nothing was"):
                await import_(desk, [good.encode(), bad], "r")
        assert await desk.letters.counts({}, "status") == {}


async def test_who_only_reads_begins_nothing_that_is_written_down(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, _):
        with pytest.raises(DeskError, match="CIM_READ_ONLY is set"):
            await revealed(replace(desk, read_only=True), died("m-1").id)
        assert await desk.actions.latest(1) == []


class _LettersReadTogether(LetterCollection):
    """Letters of which the first two readers see the same."""

    def __init__(self, store: OpenStore) -> None:
        super().__init__(store)
        self._both = asyncio.Barrier(2)

    async def some(self, query: Query, limit: int) -> list[LetterRecord]:
        found = await super().some(query, limit)
        await self._both.wait()
        return found


class _ReadTogether:
    """Actions of which the first two readers see the same."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._both = asyncio.Barrier(2)
        self._readers = 0

    async def get(self, action_id: str) -> dict[str, Any] | None:
        found = await self._actions.get(action_id)
        self._readers += 1
        if self._readers <= self._both.parties:
            await self._both.wait()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actions, name)


async def test_of_two_people_who_resume_a_job_one_does(store: Store, database: str) -> None:
    lost = FakePublisher()
    lost.lost = True
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1"), died("m-22")])
        job = await replay(desk, lost, None, everything(), "r", AT_ONCE)
        assert job.document["state"] == "interrupted"
        publisher = FakePublisher()
        together = replace(desk, actions=_ReadTogether(desk.actions))
        both = [resume(together, publisher, None, job.id) for _ in range(2)]
        ends = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 30)

    refused = [one for one in ends if isinstance(one, DeskError)]
    assert [str(one) for one in refused] == [f"job {job.id} has just been resumed by somebody else"]
    assert len(publisher.taken) == 2


async def test_a_job_runs_until_its_process_has_ended_or_is_silent_and_is_resumed_by_nobody_before(
    store: Store, database: str
) -> None:
    async with opened(store, database) as (desk, _):
        begun = await Action.begin(desk, "replay", "r")
        with pytest.raises(DeskError, match=f"job {begun.id} is running: stop it first"):
            await resume(desk, FakePublisher(), None, begun.id)
        assert (await job(desk, begun.id))["state"] == "running"
        assert (await job(replace(desk, has_ended=lambda _process: True), begun.id))["state"] == "interrupted"

        await desk.actions.update(begun.id, {"updatedAt": desk.clock.now_ms() - 31_000})
        assert (await job(desk, begun.id))["state"] == "interrupted"


async def test_a_slow_replay_is_not_taken_for_one_that_was_killed(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1"), died("m-22")])
        options = replace(AT_ONCE, rate=0.2)
        replaying = asyncio.create_task(replay(desk, FakePublisher(), None, everything(), "r", options))
        written: set[int] = set()
        while not replaying.done():
            written |= {one["updatedAt"] for one in await desk.actions.latest(1)}
            await asyncio.sleep(0.1)
        job = await replaying

    times = sorted({*written, job.document["updatedAt"]})
    assert max(later - at for at, later in pairwise(times)) < 3_500
    assert job.document["endedAt"] - job.document["startedAt"] > 4_900, "the second letter is due after five seconds"


async def test_an_edit_of_what_somebody_else_has_edited_meanwhile_is_refused(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        letter = died("m-1")
        await LetterCollection(connected).insert([letter])
        await edit(desk, letter.id, letter.body.replace(b"hello", b"mine"), revision=0)
        with pytest.raises(DeskError, match="was changed by somebody else meanwhile"):
            await edit(desk, letter.id, letter.body.replace(b"hello", b"yours"), revision=0)

        (kept,) = await desk.letters.some({}, 1)
    assert b"mine" in kept.body


async def test_a_fix_saves_what_would_not_die_again_and_leaves_the_rest_alone_unless_forced(
    store: Store, database: str
) -> None:
    mended, hopeless = died("m-1", header={"customer": {"id": "u"}}), died("m-22", header={})
    rules = parse_rules(rename=["header.customer.id=header.customer._id"], set_=["body.x=1"])
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([mended, hopeless])

        assert (await fix(desk, everything(), rules, "r")).counts == {"edited": 1, "left alone": 1}
        kept = {one.id: one for one in await desk.letters.some({}, 2)}
        assert kept[mended.id].original_body == mended.body
        assert (kept[hopeless.id].body, kept[hopeless.id].revision) == (hopeless.body, 0)

        assert (await fix(desk, everything(), rules, "r", force=True)).counts == {"edited": 1}
        kept = {one.id: one for one in await desk.letters.some({}, 2)}
    assert [kept[one.id].revision for one in (mended, hopeless)] == [1, 1]


async def test_large_letters_go_in_smaller_pages_and_none_stays_claimed(store: Store, database: str) -> None:
    large = [died("l" * (number + 1), body=b"%02d" % number * 512 * 1024) for number in range(20)]
    publisher = FakePublisher()
    publisher.unbound.add("key")
    async with opened(store, database) as (desk, connected):
        letters = LetterCollection(connected)
        await letters.insert(large)
        assert [len(page) async for page in letters.stream({}, 500)] == [16, 4]
        assert [len(page) async for page in letters.stream({}, 500, bodies=False)] == [20]

        job = await replay(desk, publisher, None, everything(), "r", AT_ONCE)

        assert (job.document["state"], job.counts["returned"]) == ("stopped", 16)
        assert await letters.counts({}, "status") == {"open": 20}
        assert await letters.counts({}, "replays") == {"": 20}

        job = await replay(desk, FakePublisher(), None, everything(), "r", AT_ONCE)

    assert (job.document["state"], job.counts["sent"]) == ("done", 20)


async def test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id(
    store: Store, database: str
) -> None:
    letters = {name: died(name, T0 + number) for number, name in enumerate(("stored", "journal", "died", "unknown"))}
    publisher = FakePublisher()
    publisher.lost = True
    async with opened(store, database) as (desk, connected):
        collection = LetterCollection(connected)
        await collection.insert([*letters.values()])

        job = await replay(desk, publisher, None, everything(), "r", AT_ONCE)

        assert (job.document["state"], job.counts) == ("interrupted", {"unknown": 4})
        assert "4 of the letters are sent or not, nobody knows" in job.document["why"]
        await _stored(connected, letters["stored"])
        successor = died("successor", replay_of=letters["died"].id, replay_job=job.id, status=Status.DISCARDED)
        await collection.insert([successor])
        publisher.lost = False
        knows = Journal(**{letters["journal"].id: ("published", "")})

        resumed = await resume(desk, publisher, knows, job.id)

        sent = [line.split()[0] async for line in lines_of(desk, job.id) if line.endswith(" sent")]
        found = {one.message_id: one async for page in collection.stream({}, 10) for one in page}
        left = await days_left(connected)
        knows.known[letters["unknown"].id] = ("published", "")
        looked_up = await resume(desk, publisher, knows, job.id)
        with pytest.raises(DeskError, match="is done: there is nothing to resume"):
            await resume(desk, publisher, None, job.id)
    assert [json.loads(one.body)["id"] for one in publisher.taken] == ["unknown"]
    assert (resumed.document["state"], resumed.counts) == ("done", {"sent": 4, AGAIN: 1})
    assert sorted(sent) == sorted(one.id for one in letters.values())  # the audit has a line for each
    assert {name: found[name].status for name in letters} == {
        "stored": "settled",
        "journal": "settled",
        "died": "died_again",
        "unknown": "replayed",
    }
    assert found["died"].successor == successor.id
    assert left == {"stored": 30, "journal": 30, "died": 30, "unknown": None, "successor": None}
    assert looked_up.document["outcomes"] == {"settled": 3, "died_again": 1}


class _Watched(LetterCollection):
    """Letters that say in which order they were claimed and marked."""

    def __init__(self, store: OpenStore, said: list[str]) -> None:
        super().__init__(store)
        self._said = said

    async def change(self, ids: Collection[str], guard: Query, change: Change) -> int:
        changed = await super().change(ids, guard, change)
        self._said.append(str(change.values["status"]))
        return changed


class _Gated(FakePublisher):
    """A broker that confirms a page when it is told to; the page with that number is lost."""

    def __init__(self, said: list[str], *, lose: int = 0) -> None:
        super().__init__()
        self.confirm = asyncio.Semaphore(0)
        self._said = said
        self._lose = lose
        self._pages = 0

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        self._said.append("published")
        self._pages += 1
        await self.confirm.acquire()
        self.lost = self._pages == self._lose
        return await super().publish(messages)


async def test_letters_that_a_colleague_has_claimed_are_left_to_them(store: Store, database: str) -> None:
    mine, theirs = FakePublisher(), FakePublisher()
    ids = [died("m-1").id, died("m-22").id]
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1"), died("m-22")])
        jobs = [await Action.begin(desk, "replay", "r") for _ in range(2)]
        theirs.answers.clear()
        first, second = PageSender(desk, theirs, jobs[0]), PageSender(desk, mine, jobs[1])
        await first.send(ids)
        assert await second.send(ids) == await second.finish() == {}
        theirs.answers.set()
        assert await first.finish() == dict.fromkeys(ids, "sent")

    assert (len(theirs.taken), mine.taken) == (2, [])
    assert jobs[1].counts == {"taken by others": 2}


async def test_the_next_page_is_claimed_while_one_is_on_its_way_and_published_when_that_one_is_marked(
    store: Store, database: str
) -> None:
    said: list[str] = []
    publisher = _Gated(said)
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m", T0 + number) for number in range(6)])
        watched = replace(desk, letters=_Watched(connected, said))
        options = Options(rate=8, limit=5, wait_seconds=0)
        replaying = asyncio.create_task(replay(watched, publisher, None, everything(), "r", options))
        await eventually_async(lambda: said == ["sending", "published", "sending"], "the second page is claimed")
        assert publisher.taken == []
        for _ in range(3):
            publisher.confirm.release()
        job = await replaying

        assert await desk.letters.counts({}, "status") == {"replayed": 5, "open": 1}
    assert [one for one in said if one != "sending"] == ["published", "replayed"] * 3
    assert (job.document["state"], job.counts) == ("done", {"sent": 5})


async def test_of_a_lost_broker_only_what_was_on_its_way_is_unknown_and_what_was_claimed_next_is_open(
    store: Store, database: str
) -> None:
    said: list[str] = []
    publisher = _Gated(said, lose=2)
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m", T0 + number) for number in range(6)])
        watched = replace(desk, letters=_Watched(connected, said))
        options = Options(rate=8, wait_seconds=0)
        replaying = asyncio.create_task(replay(watched, publisher, None, everything(), "r", options))
        publisher.confirm.release()
        await eventually_async(lambda: said.count("sending") == 3, "the third page is claimed")
        publisher.confirm.release()
        job = await replaying

        assert await desk.letters.counts({}, "status") == {"replayed": 2, "sending": 2, "open": 2}
        assert await desk.letters.counts({"status": "open"}, "replays") == {"": 2}
    assert (job.document["state"], job.counts) == ("interrupted", {"sent": 2, "unknown": 2})


async def test_a_replay_that_is_stopped_ends_after_the_letters_in_hand(store: Store, database: str) -> None:
    said: list[str] = []
    publisher, control = _Gated(said), Control()
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m", T0 + number) for number in range(6)])
        watched = replace(desk, letters=_Watched(connected, said))
        options = Options(rate=0.2, wait_seconds=0)
        replaying = asyncio.create_task(replay(watched, publisher, None, everything(), "r", options, control=control))
        await eventually_async(lambda: said == ["sending", "published"], "the first letter is on its way")
        control.stop.set()
        publisher.confirm.release()
        job = await replaying

        assert await desk.letters.counts({}, "status") == {"replayed": 1, "open": 5}
    assert (job.document["state"], job.document["why"], job.counts) == ("cancelled", "stopped by hand", {"sent": 1})


async def test_a_limit_counts_the_letters_whose_confirm_is_not_there_yet(store: Store, database: str) -> None:
    class Slow(FakePublisher):
        async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
            await asyncio.sleep(1.0)
            return await super().publish(messages)

    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m", T0 + number) for number in range(6)])
        job = await replay(desk, Slow(), None, everything(), "r", Options(limit=2, wait_seconds=0))

        assert await desk.letters.counts({}, "status") == {"replayed": 2, "open": 4}
    assert (job.document["state"], job.counts) == ("done", {"sent": 2})


class Failing(LetterCollection):
    """Letters in a store that goes away after so many changes."""

    def __init__(self, store: OpenStore, changes: int) -> None:
        super().__init__(store)
        self.left = changes

    async def change(self, ids: Collection[str], guard: Query, change: Change) -> int:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable(store_silent())
        return await super().change(ids, guard, change)


async def test_a_store_that_goes_away_in_the_middle_leaves_a_job_that_says_what_was_sent_and_can_be_resumed(
    store: Store, database: str
) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}", T0 + number) for number in range(6)])
        publisher = FakePublisher()
        failing = replace(desk, letters=Failing(connected, 3))  # claimed and marked; claimed
        with pytest.raises(Interrupted) as raised:
            await replay(failing, publisher, None, everything(), "r", Options(rate=8, wait_seconds=0))
        job = raised.value.action
        assert (job.document["state"], job.counts) == ("interrupted", {"sent": 4})
        assert await desk.letters.counts({}, "status") == {"replayed": 2, "sending": 2, "open": 2}

        await desk.actions.update(job.id, {"updatedAt": 0})
        done = await resume(desk, publisher, None, job.id)

        assert await desk.letters.counts({}, "status") == {"replayed": 6}
    names = [json.loads(one.body)["id"] for one in publisher.taken]
    assert (done.document["state"], len(set(names))) == ("done", 6)
    assert len(names) == 8  # the two whose marking failed went again, with the same id


class _Forgetful(LetterCollection):
    """Letters in a store that goes away once the letters of a job were counted so often."""

    def __init__(self, store: OpenStore, counts: int) -> None:
        super().__init__(store)
        self.left = counts

    async def counts(self, query: Query, field: str) -> dict[str, int]:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable(store_silent())
        return await super().counts(query, field)


async def test_a_store_that_is_away_when_a_job_stops_interrupts_it_too(store: Store, database: str) -> None:
    lost, stopping = FakePublisher(), Control()
    lost.lost = True
    stopping.stop.set()
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1")])
        for publisher, control in ((FakePublisher(), stopping), (lost, Control())):
            forgetful = replace(desk, letters=_Forgetful(connected, 0))
            with pytest.raises(Interrupted) as raised:
                await replay(forgetful, publisher, None, everything(), "r", AT_ONCE, control=control)
            assert raised.value.action.document["state"] == "interrupted"


async def test_an_erasure_that_names_more_than_a_customer_deletes_nothing(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1", customer_id="u-1")])
        chosen = everything(customer="u-1", code="malformed_json")
        with pytest.raises(DeskError, match="name the customer and nothing else"):
            await purge(desk, chosen, "request 17", activities=True)

        assert await desk.letters.counts({}, "status") == {"open": 1}
        assert await desk.actions.latest(1) == []


async def test_live_traffic_that_lags_and_a_colleague_end_a_replay(store: Store, database: str) -> None:
    class Lagging:
        def lagging(self) -> str:
            return "live traffic lags"

    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died("m-1")])
        job = await replay(desk, FakePublisher(), None, everything(), "r", AT_ONCE, control=Control(live=Lagging()))

        assert (job.document["state"], job.document["why"]) == ("stopped", "live traffic lags")
        assert await count(desk, everything()) == 1


async def test_a_colleague_stops_a_job_and_whoever_ran_it_reads_who_did(store: Store, database: str) -> None:
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([died(f"m-{number}", T0 + number) for number in range(9)])
        options = replace(AT_ONCE, rate=1)
        replaying = asyncio.create_task(replay(desk, FakePublisher(), None, everything(), "r", options))
        (job,) = await eventually_async(lambda: desk.actions.latest(1), "a job")
        await cancel(replace(desk, who=Who("berta")), job["_id"])
        ended = await asyncio.wait_for(replaying, 30)
        with pytest.raises(DeskError, match=f"job {ended.id} is not running: it is cancelled"):
            await cancel(desk, ended.id)

        assert (ended.document["state"], ended.document["why"]) == ("cancelled", "cancelled by berta")
        assert "open" in await desk.letters.counts({}, "status")
        assert "sending" not in await desk.letters.counts({}, "status")


async def test_a_letters_details_name_what_was_meant_and_the_rename_that_mends_it(store: Store, database: str) -> None:
    letter = died("m-1", header={"customer": {"id": "u-1"}}, code="missing_anchor", pointer="/header", problems=())
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([letter])
        told = await details(desk, letter)
    (mark,), (hint,) = told.marks, told.hints
    lines = told.text.splitlines()
    assert (mark.pointer, lines[mark.line - 1]) == ("/header", '  "header": {')
    assert hint.rename == "header.customer.id=header.customer._id"
    assert '"id": "<text of 3>"' in lines[hint.line - 1]


async def test_a_replay_is_sent_as_it_came_with_what_it_is_a_replay_of(store: Store, database: str) -> None:
    one = died(
        "m-1",
        user_id="publisher",
        idempotency_key="key-1",
        traceparent="00-trace",
        properties=(("message_id", "amqp-1"), ("timestamp", "1760000000"), ("type", "t"), ("content_type", "x/y")),
    )
    event = died("an event", body=b"{}", origin_queue="cim.conversation-events", origin_routing_key="NAME")
    publisher = FakePublisher()
    async with opened(store, database) as (desk, connected):
        await LetterCollection(connected).insert([one, event])

        job = await replay(desk, publisher, None, everything(), "r", AT_ONCE)

    sent = {message.exchange: message for message in publisher.taken}
    message = sent["cim.ingress"]
    assert (message.body, message.routing_key, message.message_id) == (one.body, "key", "amqp-1")
    assert (message.timestamp, message.type, message.content_type) == (1_760_000_000, "t", "x/y")
    assert message.headers == {
        "cim-replay-of": one.id,
        "cim-replay-job": job.id,
        "cim-user-id": "publisher",
        "cim-idempotency-key": "key-1",
        "traceparent": "00-trace",
    }
    assert sent["cim.conversation-events"].routing_key == "NAME"
