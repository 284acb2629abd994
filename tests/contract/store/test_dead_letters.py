"""Dead letters: recorded once, bytes untouched, and told when no document can hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.store.examples import NOW, letter
from worker.dead_letters.letter import RecordResult
from worker.mongo.dead_letters import COLLECTION, DeadLetterStore

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore

RECORDED, ALREADY = RecordResult.RECORDED, RecordResult.ALREADY_RECORDED


async def test_a_letter_comes_back_as_it_was_recorded(open_store: OpenStore) -> None:
    every_byte = letter(1, bytes(range(256)), first_failed_at=NOW - 5, sender_name="Survey", origin_queue="cim.ingress")
    async with open_store() as store:
        letters = DeadLetterStore(store)

        assert await letters.record([every_byte]) == [RECORDED]

        assert await letters.get(every_byte.id) == every_byte


async def test_a_letter_of_which_little_is_known_is_recorded_too(open_store: OpenStore) -> None:
    """A stranger's letter has no headers of ours."""
    foreign = letter(1, b"", problems=(), attempt=None, headers=(), properties=())
    async with open_store() as store:
        letters = DeadLetterStore(store)
        await letters.record([foreign])

        assert await letters.get(foreign.id) == foreign


async def test_a_letter_handed_over_again_is_one_document_and_keeps_its_status(open_store: OpenStore) -> None:
    async with open_store() as store:
        letters = DeadLetterStore(store)
        await letters.record([letter(1), letter(2)])
        await store.collection(COLLECTION).update_one({"_id": letter(1).id}, {"$set": {"status": "replayed"}})

        assert await letters.record([letter(2), letter(3), letter(1), letter(3)]) == [
            ALREADY,
            RECORDED,
            ALREADY,
            ALREADY,
        ]

        assert await store.collection(COLLECTION).count_documents({}) == 3
        kept = await letters.get(letter(1).id)
    assert kept is not None
    assert kept.status == "replayed"


async def test_a_letter_no_document_can_hold_is_told_apart(open_store: OpenStore) -> None:
    async with open_store(timeout_ms=60_000) as store:
        huge = letter(2, b"x" * 16 * 1024 * 1024)

        assert await DeadLetterStore(store).record([letter(1), huge, letter(3)]) == [
            RECORDED, RecordResult.TOO_LARGE, RECORDED,
        ]  # fmt: skip


async def test_an_index_of_somebody_else_that_says_no_is_not_taken_for_recorded(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.collection(COLLECTION).create_index("fingerprint", unique=True)
        letters = DeadLetterStore(store)
        await letters.record([letter(1)])

        assert await letters.record([letter(2)]) == [RecordResult.REFUSED]


async def test_letters_can_be_counted_by_a_single_field(open_store: OpenStore) -> None:
    async with open_store() as store:
        await DeadLetterStore(store).record([letter(1), letter(2), letter(3, code="invalid_utf8")])
        cursor = await store.collection(COLLECTION).aggregate(
            [{"$match": {"status": "dead"}}, {"$group": {"_id": "$code", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}]
        )
        groups = [document async for document in cursor]

    assert groups == [{"_id": "invalid_utf8", "n": 1}, {"_id": "malformed_json", "n": 2}]
