"""Activities: written once, never overwritten, each with an answer of its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson.objectid import ObjectId

from tests.contract.store.examples import NOW, activity
from worker.codes import Code, FailureClass
from worker.mongo.activities import COLLECTION, ActivityStore
from worker.pipeline.ports import Refused, StoredBecause, Written

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore

STORED, DUPLICATE = Written.STORED, Written.DUPLICATE
MIB = 1024 * 1024


async def test_a_new_activity_is_stored_in_the_shape_the_platform_reads(open_store: OpenStore) -> None:
    async with open_store() as store:
        one = activity("m-1")

        assert await ActivityStore(store).store([one], NOW + 7) == [STORED]

        document = await store.collection(COLLECTION).find_one({"_id": ObjectId(one.event_id)})
    assert document is not None
    time = datetime.fromtimestamp(NOW / 1000, UTC).replace(tzinfo=None)
    assert document == {
        "_id": ObjectId(one.event_id),
        "customerId": "customer-1",
        "conversationId": "conversation-1",
        "channelSessionId": "session-1",
        "roomId": "room-1",
        "activity": {
            "_id": one.event_id,
            "name": "THIRD_PARTY_ACTIVITY",
            "type": "ACTIVITY",
            "timestamp": time,
            "conversationId": "conversation-1",
            "eventEmitter": {"id": "app-1", "type": "APP"},
            "channelSession": {"_id": "session-1", "channel": {"id": "channel-1"}, "isActive": False},
            "data": one.event["data"],
            "roomInfo": {"_id": "room-1", "mode": "CONTACT_CENTER"},
        },
        "timestamp": time,
        "recordCreationTime": datetime.fromtimestamp((NOW + 7) / 1000, UTC).replace(tzinfo=None),
        "messageId": "m-1",
        "storedBecause": None,
    }


async def test_a_stand_alone_activity_has_no_conversation_session_or_room(open_store: OpenStore) -> None:
    one = activity("m-1")
    alone = one._replace(conversation_id=None, channel_session=None, room=None)
    async with open_store() as store:
        activities = ActivityStore(store)

        assert await activities.store([alone], NOW) == [STORED]

        document = await activities.get(one.event_id)
    assert document is not None
    assert document["customerId"] == "customer-1"
    assert document["conversationId"] is document["channelSessionId"] is document["roomId"] is None
    assert document["activity"]["channelSession"] is document["activity"]["roomInfo"] is None


async def test_storing_does_not_change_the_event(open_store: OpenStore) -> None:
    """The event may still be published or dead-lettered afterwards."""
    one, untouched = activity("m-1"), activity("m-1")
    async with open_store() as store:
        await ActivityStore(store).store([one], NOW)

    assert one == untouched


async def test_the_same_activity_again_is_a_duplicate_and_stays_one_document(open_store: OpenStore) -> None:
    async with open_store() as store:
        activities = ActivityStore(store)
        batch = [activity(f"m-{number}") for number in range(5)]

        assert await activities.store(batch, NOW) == [STORED] * 5
        assert await activities.store(batch, NOW + 1000) == [DUPLICATE] * 5

        assert await store.collection(COLLECTION).count_documents({}) == 5


async def test_the_document_says_why_it_was_stored_when_that_is_known(open_store: OpenStore) -> None:
    one = activity("m-1")._replace(stored_because=StoredBecause.STAND_ALONE)
    async with open_store() as store:
        activities = ActivityStore(store)
        await activities.store([one], NOW)
        document = await activities.get(one.event_id)

    assert document is not None
    assert (document["messageId"], document["storedBecause"]) == ("m-1", "stand_alone")


async def test_each_of_a_mixed_batch_gets_its_own_answer_in_order(open_store: OpenStore) -> None:
    async with open_store() as store:
        activities = ActivityStore(store)
        await activities.store([activity("old"), activity("corrected", "first")], NOW)

        results = await activities.store(
            [activity("new-1"), activity("corrected", "second"), activity("old"), activity("new-2")], NOW
        )

    assert results == [STORED, STORED, DUPLICATE, STORED]


async def test_an_event_that_occurs_twice_in_one_batch_is_stored_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        activities = ActivityStore(store)

        results = await activities.store(
            [activity("m", "a"), activity("x"), activity("m", "a"), activity("m", "b"), activity("m", "a")], NOW
        )

        assert results == [STORED, STORED, DUPLICATE, STORED, DUPLICATE]
        assert await store.collection(COLLECTION).count_documents({}) == 3


async def test_of_two_that_are_one_event_the_second_is_stored_when_only_the_first_cannot_be(
    open_store: OpenStore,
) -> None:
    """With an idempotency key their content may differ, and the fault may lie in the difference."""
    good = activity("m")
    bad = good._replace(message=good.message._replace(parsed={**good.message.wire, "a\0b": 1}))
    async with open_store() as store:
        results = await ActivityStore(store).store([bad, good, bad, good], NOW)

    assert isinstance(results[0], Refused)
    assert results[1:] == [STORED, DUPLICATE, DUPLICATE]


async def test_an_empty_batch_has_no_results(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await ActivityStore(store).store([], NOW) == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"key with \x00 in it": 1}, id="NUL in a key"),
        pytest.param({"number": 2**63}, id="integer beyond 64 bits"),
        pytest.param({"text": "\ud800"}, id="half a surrogate pair"),
        pytest.param({"what": {1, 2}}, id="a type BSON does not have"),
    ],
)
async def test_an_activity_that_cannot_be_encoded_fails_alone(open_store: OpenStore, data: dict[str, Any]) -> None:
    async with open_store() as store:
        results = await ActivityStore(store).store([activity("a"), activity("bad", data=data), activity("b")], NOW)

    assert [results[0], results[2]] == [STORED, STORED]
    assert isinstance(results[1], Refused)
    assert results[1].failure.code is Code.NOT_ENCODABLE
    assert results[1].failure.failure_class is FailureClass.PERMANENT


async def test_a_document_above_16_mib_fails_alone(open_store: OpenStore) -> None:
    huge = activity("huge", data={"text": "x" * 16 * MIB})
    async with open_store() as store:
        results = await ActivityStore(store).store([activity("a"), huge, activity("b")], NOW)

    assert [results[0], results[2]] == [STORED, STORED]
    assert isinstance(results[1], Refused)
    assert results[1].failure.code is Code.DOCUMENT_TOO_LARGE


async def test_a_refused_activity_does_not_take_its_namesake_along(open_store: OpenStore) -> None:
    """Two payloads under one id, of which the first cannot be encoded: the second is a valid message of its own."""
    async with open_store() as store:
        results = await ActivityStore(store).store([activity("m", "a", data={"\x00": 1}), activity("m", "b")], NOW)

    assert isinstance(results[0], Refused)
    assert results[1] is STORED


async def test_large_activities_are_stored_in_calls_of_bounded_size(open_store: OpenStore) -> None:
    """Forty messages of 1 MiB do not become one command of 40 MiB."""
    text = "x" * MIB
    batch = [activity(f"m-{number}", data={"text": text}) for number in range(40)]
    async with open_store(timeout_ms=60_000) as store:
        assert await ActivityStore(store).store(batch, NOW) == [STORED] * 40

        assert await store.collection(COLLECTION).count_documents({}) == 40


async def test_a_batch_beyond_the_size_of_one_call_is_stored_completely(open_store: OpenStore) -> None:
    batch = [activity(f"m-{number}") for number in range(1203)]
    async with open_store(timeout_ms=60_000) as store:
        activities = ActivityStore(store)
        await activities.store(batch[500:600], NOW)

        results = await activities.store(batch, NOW)

        assert results == [STORED] * 500 + [DUPLICATE] * 100 + [STORED] * 603
        assert await store.collection(COLLECTION).count_documents({}) == 1203


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"leaf": True}
    for _ in range(levels - 1):
        value = {"n": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(nested(62), id="64 levels with data and this key"),
        pytest.param([-(2**63), 2**63 - 1, 2**31, 2**53 + 1], id="integers up to 64 bits"),
        pytest.param([0.1, 1e308, -2.5e-308], id="doubles"),
        pytest.param("🙂 \u2028 \x7f é", id="text beyond ASCII"),
        pytest.param("a\x00b", id="NUL in a value"),
        pytest.param({"empty": {}, "list": [], "nothing": None, "": "no name"}, id="emptiness"),
        pytest.param([{"a": [1, "two", None]}, True], id="lists of objects"),
        pytest.param([[1, [2]], []], id="lists in lists"),
        pytest.param({"$oid": "65f0c0ffee0000000000abcd"}, id="looks like extended JSON"),
        pytest.param("2026-01-01T00:00:00Z", id="looks like a date"),
    ],
)
async def test_what_the_validator_lets_through_comes_back_unchanged(open_store: OpenStore, value: Any) -> None:
    one = activity("m-1", data={"value": value})
    async with open_store() as store:
        activities = ActivityStore(store)
        assert await activities.store([one], NOW) == [STORED]
        document = await activities.get(one.event_id)

    assert document is not None
    assert document["activity"]["data"] == one.event["data"]
    assert document["activity"]["data"]["value"] == value


async def test_keys_with_dots_and_dollars_are_kept_or_refused_alone(open_store: OpenStore) -> None:
    """MongoDB keeps them since 5.0; a server that does not must not take the neighbours along, nor change the keys."""
    odd = activity("odd", data={"a.b": 1, "$set": {"$gt": 2}})
    async with open_store() as store:
        activities = ActivityStore(store)
        results = await activities.store([activity("a"), odd, activity("b")], NOW)
        document = await activities.get(odd.event_id)

    assert [results[0], results[2]] == [STORED, STORED]
    if results[1] is STORED:
        assert document is not None
        assert document["activity"]["data"] == odd.event["data"]
    else:
        assert isinstance(results[1], Refused)
        assert document is None


async def test_a_unique_index_of_somebody_else_refuses_for_good(open_store: OpenStore) -> None:
    """Error 11000 is not proof that the activity is stored: the key may belong to another index."""
    async with open_store() as store:
        await store.collection(COLLECTION).create_index("customerId", unique=True)
        activities = ActivityStore(store)
        await activities.store([activity("first")], NOW)

        [result] = await activities.store([activity("second")], NOW)

        assert isinstance(result, Refused)
        assert result.failure.code is Code.STORE_REJECTED
        assert await activities.get(activity("second").event_id) is None


async def test_two_workers_that_store_the_same_activities_at_once_agree(open_store: OpenStore) -> None:
    batch = [activity(f"m-{number}") for number in range(100)]
    async with open_store() as one, open_store() as other:
        first, second = await asyncio.gather(
            ActivityStore(one).store(batch, NOW), ActivityStore(other).store(batch[::-1], NOW)
        )
        assert await one.collection(COLLECTION).count_documents({}) == 100

    for mine, theirs in zip(first, second[::-1], strict=True):
        assert {mine, theirs} == {STORED, DUPLICATE}
