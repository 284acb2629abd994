"""Letters as the desk reads and changes them, and the audit, on every store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.contract.store.examples import NOW, letter
from tests.support import wire_proxy as wire
from tests.support.deliveries import RecordingReporter
from tests.support.eventually import eventually_async
from worker.dead_letters.letter import RecordResult, Status, claim_state
from worker.dead_letters.outcomes import ReplayOutcome
from worker.desk.ports import Change
from worker.failure import StoreUnavailable
from worker.mongo import letter_pages
from worker.mongo.causes import Causes
from worker.mongo.client import Store, connect
from worker.mongo.dead_letters import COLLECTION, DeadLetterStore
from worker.mongo.letters import LetterCollection
from worker.mongo.operator_actions import ActionCollection
from worker.mongo.searching import StoreSearch
from worker.mongo.stored_activities import StoredActivities
from worker.process.clock import SystemClock
from worker.process.preflight import ensure_indexes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.store.conftest import OpenStore
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.ports import Query

OPEN = {"status": "open"}


async def test_letters_are_counted_by_cause_with_their_senders(open_store: OpenStore) -> None:
    letters = [
        letter(1, sender_id="app-1", first_seen=NOW - 9),
        letter(2, sender_id="app-2", last_seen=NOW + 9, count=3),
        letter(3, fingerprint="another", user_id="publisher"),
        letter(4, status=Status.DISCARDED),
    ]
    async with open_store() as store:
        collection = LetterCollection(store)
        assert await collection.insert(letters) == [RecordResult.RECORDED] * 4
        assert await collection.insert(letters[:1]) == [RecordResult.ALREADY_RECORDED]

        large, small = sorted(await collection.groups(OPEN), key=lambda one: -one.letters)
        counts = await collection.counts({}, "status")
        first_seen = await collection.first_seen()

    assert (large.letters, large.deaths, large.first_seen, large.last_seen) == (2, 4, NOW - 9, NOW + 9)
    assert (large.senders, large.users, small.users) == (("app-1", "app-2"), (), ("publisher",))
    assert counts == {"open": 3, "discarded": 1}
    assert first_seen == {large.fingerprint: NOW - 9, "another": NOW}


async def test_a_document_of_somebody_else_is_listed_with_what_can_be_read_and_hides_no_other(
    open_store: OpenStore,
) -> None:
    strange = {
        "_id": "x",
        "status": "open",
        "firstSeen": datetime.now(UTC),
        "lastSeen": "yesterday",
        "problems": [{"code": 1}],
        "properties": "none",
        "messageId": "m-1",
        "count": True,
    }
    async with open_store() as store:
        collection = LetterCollection(store)
        await collection.insert([letter(1)])
        await store.collection(COLLECTION).insert_one(strange)

        groups = await collection.groups(OPEN)
        listed = await collection.latest(OPEN, 10)
        (alone,) = await collection.some({"_id": "x"}, 1)
        known = await collection.first_seen()
        paged = [one.id async for page in collection.stream(OPEN, 10) for one in page]
        got = await DeadLetterStore(store).get("x")
        (found,) = await StoreSearch(store).letters(["x"], 10)

    assert {one.fingerprint: (one.letters, one.first_seen) for one in groups} == {
        letter(1).fingerprint: (1, NOW),
        "": (1, 0),
    }
    assert sorted(one.id for one in listed) == sorted(paged) == sorted([letter(1).id, "x"])
    assert known[letter(1).fingerprint] == NOW
    assert got == found == alone
    assert (alone.message_id, alone.first_seen, alone.last_seen, alone.problems, alone.count) == ("m-1", 0, 0, (), 1)


async def test_a_cause_is_known_since_its_first_letter_though_that_is_deleted(open_store: OpenStore) -> None:
    async with open_store() as store:
        collection = LetterCollection(store)
        first, again = (
            letter(1, first_seen=NOW - 5),
            letter(2, first_seen=NOW + 90_000_000, recorded_at=NOW + 90_000_000),
        )
        await DeadLetterStore(store).record([first, letter(3, first_seen=NOW - 9), letter(4, fingerprint="other")], {})
        await collection.delete([letter(number).id for number in (1, 3)])
        await DeadLetterStore(store).record([again], {})

        known = await collection.known_since([first.fingerprint, "never"])
        kept = await store.collection("dead_letter_causes").find().to_list()

    assert known == {first.fingerprint: NOW - 9}
    assert {document["_id"] for document in kept} == {first.fingerprint, "other"}
    assert all(document["expiresAt"] for document in kept)


async def test_a_cause_is_written_down_once_a_day_and_not_for_every_letter(open_store: OpenStore) -> None:
    async with open_store() as store:
        causes = Causes(store)
        await causes.note([letter(1)])
        await store.collection("dead_letter_causes").delete_many({})
        await causes.note([letter(2)])
        assert await causes.first_seen([letter(1).fingerprint]) == {}

        tomorrow = letter(1).recorded_at + 86_400_001
        await causes.note([letter(3, first_seen=tomorrow, recorded_at=tomorrow)])
        assert await causes.first_seen([letter(1).fingerprint]) == {letter(1).fingerprint: tomorrow}


async def test_letters_come_in_pages_and_the_latest_ones_first(open_store: OpenStore) -> None:
    letters = [letter(number, last_seen=NOW + number) for number in range(7)]
    async with open_store() as store:
        collection = LetterCollection(store)
        await collection.insert(letters)

        pages = [page async for page in collection.stream(OPEN, 3)]
        bare = [one async for page in collection.stream(OPEN, 3, bodies=False) for one in page]
        latest = await collection.latest({"lastSeen": {"$gte": NOW + 2, "$lt": NOW + 6}}, 3)

    assert [len(page) for page in pages] == [3, 3, 1]
    assert {one.body for page in pages for one in page} == {b"not json"}
    assert {one.body for one in bare} == {b""}
    assert {one.id for one in bare} == {one.id for one in letters}
    assert [one.last_seen - NOW for one in latest] == [5, 4, 3]


@pytest.mark.parametrize("limit", [None, 4, 5, 9, 100])
async def test_letters_that_come_in_many_parts_are_each_there_once(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(letter_pages, "_PART", 4)
    letters = [
        letter(
            number, fingerprint="few" if number % 5 == 0 else "many", sender_id=f"app-{number % 2}", last_seen=number
        )
        for number in range(30)
    ]
    wanted: list[tuple[Query, Callable[[LetterRecord], bool]]] = [
        (OPEN, lambda _one: True),
        ({"fingerprint": "few", **OPEN}, lambda one: one.fingerprint == "few"),
        (
            {"fingerprint": "many", "senderId": "app-1", **OPEN},
            lambda one: (one.fingerprint, one.sender_id) == ("many", "app-1"),
        ),
        ({"fingerprint": {"$in": ["few", "many"]}}, lambda _one: True),
        ({"lastSeen": {"$gte": 3, "$lt": 20}, **OPEN}, lambda one: 3 <= one.last_seen < 20),
        ({"_id": {"$in": [one.id for one in letters[:7]]}}, lambda one: one.last_seen < 7),
        ({"fingerprint": "none"}, lambda _one: False),
    ]
    async with open_store() as store:
        collection = LetterCollection(store)
        await ensure_indexes(store, RecordingReporter())
        await collection.insert(letters)
        for query, is_wanted in wanted:
            pages = [page async for page in collection.stream(query, 3, limit=limit)]
            found = [one.id for page in pages for one in page]
            all_of_them = {one.id for one in letters if is_wanted(one)}
            assert len(found) == len(set(found)) == min(len(all_of_them), limit or 100)
            assert set(found) <= all_of_them
            assert all(len(page) <= 3 for page in pages)


async def test_who_stops_reading_letters_leaves_nothing_behind(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_pages, "_PART", 4)
    async with open_store() as store:
        collection = LetterCollection(store)
        await collection.insert([letter(number) for number in range(12)])
        async with aclosing(collection.stream(OPEN, 2)) as pages:  # type: ignore[type-var]
            first = await anext(pages)

        assert len(first) == 2
        assert {task for task in asyncio.all_tasks() if "fetch" in task.get_name()} == set()


@pytest.mark.parametrize("at_once", [True, False], ids=["in one update", "one by one"])
async def test_a_letter_is_changed_by_compare_and_set(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    async def is_embedded(_store: Store) -> bool:
        return at_once

    monkeypatch.setattr(Store, "is_embedded", is_embedded)
    async with open_store() as store:
        collection = LetterCollection(store)
        await collection.insert([letter(1), letter(2), letter(3, status=Status.DISCARDED)])
        claim = Change({"status": "sending", "jobId": "job-1"}, add={"replays": 1})
        ids = [letter(number).id for number in (1, 2, 3)]

        assert await collection.change(ids, claim_state("open"), claim) == 2
        assert await collection.change(ids, claim_state("open"), claim) == 0

        (claimed,) = await collection.some({"_id": ids[0]}, 1)
        assert (claimed.status, claimed.job_id, claimed.replays) == ("sending", "job-1", 1)
        assert await collection.delete(ids[:2]) == 2
        assert await collection.counts({}, "status") == {"discarded": 1}


async def test_of_two_who_claim_the_same_letters_at_once_each_gets_others(open_store: OpenStore) -> None:
    ids = [letter(number).id for number in range(60)]
    async with open_store() as store:
        collection = LetterCollection(store)
        await ensure_indexes(store, RecordingReporter())
        await collection.insert([letter(number) for number in range(60)])
        jobs = [f"job-{number}" for number in range(4)]
        claims = [Change({"status": "sending", "jobId": job}, add={"replays": 1}) for job in jobs]

        won = await asyncio.gather(*(collection.change(ids, claim_state("open"), one) for one in claims))

        assert sum(won) == 60
        assert await collection.counts({}, "replays") == {"1": 60}
        assert await collection.counts({}, "jobId") == {job: n for job, n in zip(jobs, won, strict=True) if n}


async def test_the_outcome_of_a_replay_is_written_to_the_letter_that_is_under_way_and_to_no_other(
    open_store: OpenStore,
) -> None:
    under_way = letter(1, status=Status.REPLAYED, job_id="job-1")
    not_marked = letter(4, status=Status.SENDING, job_id="job-1")
    reopened = letter(2, status=Status.OPEN, job_id="job-1")
    elsewhere = letter(3, status=Status.SENDING, job_id="job-2")
    async with open_store() as store:
        collection = LetterCollection(store)
        await collection.insert([under_way, not_marked, reopened, elsewhere])
        outcomes = [
            ReplayOutcome(one.id, "job-1", Status.DIED_AGAIN, "dead", "successor", NOW)
            for one in (under_way, not_marked, reopened, elsewhere)
        ]
        await DeadLetterStore(store).write_outcomes(outcomes)
        await DeadLetterStore(store).write_outcomes(outcomes)
        found = {one.id: one async for page in collection.stream({}, 10) for one in page}

    died = found[under_way.id]
    assert (died.status, died.outcome, died.successor) == ("died_again", "dead", "successor")
    assert found[not_marked.id].status == "died_again"
    assert found[reopened.id].status == "open"
    assert found[elsewhere.id].status == "sending"


async def test_a_replay_that_died_again_counts_the_replays_of_the_letter_it_came_from(open_store: OpenStore) -> None:
    async with open_store() as store:
        await LetterCollection(store).insert([letter(1, replays=2)])
        successor = letter(2, replay_of=letter(1).id)
        letters = DeadLetterStore(store)
        await letters.record([successor], {})

        kept = await letters.get(successor.id)

    assert kept is not None
    assert (kept.replays, kept.replay_of) == (2, letter(1).id)


async def test_another_letter_of_a_decided_content_opens_it_and_is_not_deleted_with_it(open_store: OpenStore) -> None:
    async with open_store() as store:
        collection, letters = LetterCollection(store), DeadLetterStore(store)
        await letters.record([letter(1)], {})
        await letters.settled({letter(1).id: 1})
        discarded = Change({"status": "discarded", "reason": "noise"}, expires_at=NOW)
        await collection.change([letter(1).id], {}, discarded)
        await letters.record([letter(1)], {})

        document = await store.collection("dead_letters").find_one({"_id": letter(1).id})

    assert document is not None
    assert (document["status"], document["reason"], document.get("expiresAt")) == ("open", "", None)


async def test_what_was_kept_long_enough_is_deleted_and_no_open_letter(open_store: OpenStore) -> None:
    now = SystemClock().now_ms()
    async with open_store() as store:
        await ensure_indexes(store, RecordingReporter())
        collection = LetterCollection(store)
        await collection.insert([letter(1), letter(2), letter(3)])
        await collection.change([letter(1).id], claim_state("open"), Change({"status": "discarded"}, expires_at=NOW))
        later = Change({"status": "settled"}, expires_at=now + 86_400_000)
        await collection.change([letter(2).id], claim_state("open"), later)

        await DeadLetterStore(store).delete_expired(now)

        assert await collection.counts({}, "status") == {"open": 1, "settled": 1}


async def test_the_server_deletes_a_cause_when_its_time_has_come_and_no_other(open_store: OpenStore) -> None:
    now = SystemClock().now_ms()
    async with open_store() as store:
        await ensure_indexes(store, RecordingReporter())
        causes = Causes(store)
        forgotten = letter(1, recorded_at=now - 401 * 86_400_000)
        await causes.note([forgotten, letter(2, fingerprint="another", recorded_at=now)])

        async def left() -> bool:
            return set(await causes.first_seen([forgotten.fingerprint, "another"])) == {"another"}

        await eventually_async(left, "the forgotten one deleted", seconds=90)  # MongoDB looks once a minute


async def test_where_the_server_looks_through_all_letters_for_expired_ones_we_delete_them_alone(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        await ensure_indexes(store, RecordingReporter())
        kinds = [index async for index in await store.collection("dead_letters").list_indexes()]
        is_embedded = await store.is_embedded()

    assert ["expiresAt"] in [list(one["key"]) for one in kinds]
    assert not (is_embedded and any("expireAfterSeconds" in one for one in kinds))


async def test_a_server_that_does_not_answer_in_time_is_not_asked_in_another_way(store_uri: str, database: str) -> None:
    with wire.wire_proxy(store_uri) as proxy:
        store = connect(proxy.uri, database, timeout_ms=500)
        await LetterCollection(store).insert([letter(1)])
        silent = proxy.on("aggregate", answer=wire.silence)
        others = proxy.on("find", "count", answer=wire.silence)
        letters, activities = LetterCollection(store), StoredActivities(store)
        for ask in (lambda: letters.groups(OPEN), letters.first_seen, lambda: activities.newest(["c-1", "c-2"])):
            with pytest.raises(StoreUnavailable, match="no answer within the deadline"):
                await ask()
        await store.close()

    assert (silent.count, others.count) == (3, 0)


async def test_actions_are_listed_the_newest_first_and_keep_their_lines_in_order(open_store: OpenStore) -> None:
    async with open_store() as store:
        actions = ActionCollection(store)
        for number in range(3):
            await actions.put({"_id": f"a{number}", "kind": "replay", "startedAt": NOW + number, "counts": {}})
        for number in (2, 1):
            await actions.put(
                {
                    "_id": f"a1-{number:06}",
                    "kind": "lines",
                    "jobId": "a1",
                    "startedAt": NOW,
                    "lines": [f"line {number}"],
                }
            )
        await actions.update("a1", {"counts": {"sent": 2}})

        assert [one["_id"] for one in await actions.latest(2)] == ["a2", "a1"]
        assert await actions.latest(5, kinds=("purge",)) == []
        found = await actions.get("a1")
        lines = [line async for chunks in actions.lines("a1") for chunk in chunks for line in chunk["lines"]]

    assert found is not None
    assert found["counts"] == {"sent": 2}
    assert lines == ["line 1", "line 2"]
