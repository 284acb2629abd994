"""Dead letters: recorded once, bytes untouched, and told when no document can hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.contract.store.examples import NOW, letter
from worker.dead_letters.letter import RecordResult
from worker.mongo.dead_letters import COLLECTION, DeadLetterStore
from worker.mongo.overview import Overview

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore

RECORDED, ALREADY = RecordResult.RECORDED, RecordResult.ALREADY_RECORDED


async def test_a_letter_comes_back_as_it_was_recorded(open_store: OpenStore) -> None:
    every_byte = letter(1, bytes(range(256)), first_failed_at=NOW - 5, sender_name="Survey", origin_queue="cim.ingress")
    async with open_store() as store:
        letters = DeadLetterStore(store)

        assert await letters.record([every_byte], {}) == [RECORDED]

        assert await letters.get(every_byte.id) == every_byte


async def test_a_letter_of_which_little_is_known_is_recorded_too(open_store: OpenStore) -> None:
    """A stranger's letter has no headers of ours."""
    foreign = letter(1, b"", problems=(), attempt=None, headers=(), properties=())
    async with open_store() as store:
        letters = DeadLetterStore(store)
        await letters.record([foreign], {})

        assert await letters.get(foreign.id) == foreign


async def test_letters_of_one_content_are_one_document_that_counts_them(open_store: OpenStore) -> None:
    async with open_store() as store:
        letters = DeadLetterStore(store)

        assert await letters.record([letter(1), letter(2), letter(1)], {}) == [RECORDED, RECORDED, ALREADY]
        early, late = letter(1, first_seen=NOW - 9, last_seen=NOW - 9), letter(1, first_seen=NOW + 9, last_seen=NOW + 9)
        assert await letters.record([late, letter(3), early], {}) == [ALREADY, RECORDED, ALREADY]

        kept = await letters.get(letter(1).id)
        assert kept is not None
        assert (kept.count, kept.first_seen, kept.last_seen) == (4, NOW - 9, NOW + 9)
        assert await store.collection(COLLECTION).count_documents({}) == 3


async def test_a_letter_delivered_again_is_counted_once_whether_it_had_been_recorded_or_not(
    open_store: OpenStore,
) -> None:
    """The broker's word that it was delivered before does not tell: what counts is whether it has left the queue."""
    again = letter(1, redelivered=True)
    async with open_store() as store:
        letters = DeadLetterStore(store)

        async def count() -> int:
            kept = await letters.get(letter(1).id)
            assert kept is not None
            return kept.count

        await letters.record([again], {})  # never recorded: handed back before
        assert await count() == 1
        await letters.record([again], {})  # recorded, and delivered again before it was acknowledged
        assert await count() == 1
        await letters.settled({letter(1).id: 1})
        await letters.record([again, again], {})  # two others, handed back before
        assert await count() == 3
        await letters.record([again, again, letter(1)], {})  # the same two, and a third
        assert await count() == 4
        await letters.settled({letter(1).id: 3})
        await letters.record([again], {})
        assert await count() == 5


async def test_what_somebody_has_decided_about_stays_so_until_another_such_letter_comes(open_store: OpenStore) -> None:
    async with open_store() as store:
        letters = DeadLetterStore(store)

        async def decide(status: str) -> str:
            await store.collection(COLLECTION).update_one({"_id": letter(1).id}, {"$set": {"status": status}})
            await letters.record([letter(1)], {})
            kept = await letters.get(letter(1).id)
            assert kept is not None
            return kept.status

        await letters.record([letter(1)], {})
        await store.collection(COLLECTION).update_one({"_id": letter(1).id}, {"$set": {"status": "replayed"}})
        await letters.record([letter(1, redelivered=True)], {})
        kept = await letters.get(letter(1).id)
        assert kept is not None
        assert kept.status == "replayed"

        assert {status: await decide(status) for status in ("discarded", "settled", "sending", "parked")} == {
            "discarded": "open",
            "settled": "open",
            "sending": "sending",
            "parked": "parked",
        }


async def test_a_letter_that_is_opened_again_says_since_when_and_nothing_of_what_was_decided(
    open_store: OpenStore,
) -> None:
    decided = letter(1, status="died_again", status_at=NOW, job_id="job", outcome="dead", successor="s", reason="r")
    async with open_store() as store:
        letters = DeadLetterStore(store)
        await letters.record([decided], {})
        await letters.record([letter(1, recorded_at=NOW + 60_000)], {})
        kept = await letters.get(decided.id)

    assert kept is not None
    assert (kept.status, kept.status_at) == ("open", NOW + 60_000)
    assert (kept.job_id, kept.outcome, kept.successor, kept.reason) == ("", "", "", "")


async def test_a_letter_no_document_can_hold_is_told_apart(open_store: OpenStore) -> None:
    async with open_store(timeout_ms=60_000) as store:
        huge = letter(2, b"x" * 16 * 1024 * 1024)

        assert await DeadLetterStore(store).record([letter(1), huge, letter(3)], {}) == [
            RECORDED, RecordResult.TOO_LARGE, RECORDED,
        ]  # fmt: skip


async def test_an_index_of_somebody_else_that_says_no_is_not_taken_for_recorded(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.collection(COLLECTION).create_index("fingerprint", unique=True)
        letters = DeadLetterStore(store)
        await letters.record([letter(1)], {})

        assert await letters.record([letter(2)], {}) == [RecordResult.REFUSED]


async def test_letters_can_be_counted_by_a_single_field(open_store: OpenStore) -> None:
    async with open_store() as store:
        await DeadLetterStore(store).record([letter(1), letter(2), letter(3, code="invalid_utf8")], {})
        cursor = await store.collection(COLLECTION).aggregate(
            [{"$match": {"status": "open"}}, {"$group": {"_id": "$code", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}]
        )
        groups = [document async for document in cursor]

    assert groups == [{"_id": "invalid_utf8", "n": 1}, {"_id": "malformed_json", "n": 2}]


async def test_a_document_of_somebody_else_is_counted_and_hides_no_other(open_store: OpenStore) -> None:
    async with open_store() as store:
        letters = DeadLetterStore(store)
        await letters.record([letter(1)], {})
        strange = {"_id": "x", "status": "open", "firstSeen": datetime.now(UTC)}
        await store.collection(COLLECTION).insert_one(strange)

        counted = await letters.open_by_code()
        summary = await Overview(store).letters(NOW - 1)

    assert {one.code: (one.letters, one.oldest) for one in counted} == {"malformed_json": (1, NOW), "": (1, None)}
    assert (summary.open, summary.oldest) == (2, NOW)
