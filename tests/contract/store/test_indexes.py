"""Indexes: which are missing, made once, and never in the way of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.store.examples import NOW, activity
from tests.support import wire_proxy as wire
from tests.support.deliveries import RecordingReporter
from worker.codes import Code
from worker.failure import StoreUnavailable
from worker.mongo import indexes
from worker.mongo.activities import COLLECTION, ActivityStore
from worker.mongo.client import connect
from worker.process.preflight import ensure_indexes

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore
    from worker.mongo.client import Store

PLATFORMS_NAMES = {"conversationId + timestamp", "customerId + timestamp", "channelSessionId + timestamp", "messageId"}


async def missing(store: Store) -> set[str]:
    """Return the names of everything that is missing."""
    collections = {index.collection for index in indexes.ALL}
    return {index.name for collection in collections for index in await indexes.missing(store, collection)}


async def test_what_is_missing_is_made_once_and_is_there_then(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await missing(store) == {index.name for index in indexes.ALL}

        for _ in range(2):
            assert [await indexes.make(store, index) for index in indexes.ALL] == [None] * len(indexes.ALL)

        assert await missing(store) == set()


@pytest.mark.parametrize(
    ("keys", "serves"),
    [
        ([("conversationId", 1), ("timestamp", 1)], True),
        ([("conversationId", 1), ("timestamp", -1)], True),
        ([("conversationId", 1), ("timestamp", 1), ("roomId", 1)], True),
        ([("conversationId", 1)], False),
        ([("timestamp", 1), ("conversationId", 1)], False),
    ],
)
async def test_an_index_of_somebody_else_serves_when_it_begins_with_the_same_fields(
    open_store: OpenStore, keys: list[tuple[str, int]], *, serves: bool
) -> None:
    async with open_store() as store:
        await store.collection(COLLECTION).create_index(keys, name="theirs")

        assert ("conversationId + timestamp" not in await missing(store)) is serves


@pytest.mark.parametrize(
    "part", [{"sparse": True}, {"partialFilterExpression": {"a": 1}}, {"key": {"messageId": "hashed"}}]
)
def test_an_index_of_some_documents_or_of_no_order_does_not_serve(part: dict[str, Any]) -> None:
    index = indexes.PLATFORMS[-1]

    assert index.is_served_by({"key": {"messageId": 1}})
    assert not index.is_served_by({"key": {"messageId": 1}, **part})


async def test_at_start_an_empty_store_gets_all_of_them(open_store: OpenStore) -> None:
    reporter = RecordingReporter()
    async with open_store() as store:
        await ensure_indexes(store, reporter)

        assert await missing(store) == set()
    assert reporter.warnings == []


async def test_at_start_the_platforms_collection_is_left_alone_when_it_holds_something(open_store: OpenStore) -> None:
    reporter = RecordingReporter()
    async with open_store() as store:
        await ActivityStore(store).store([activity("m-1")], NOW)
        await ensure_indexes(store, reporter)

        assert await missing(store) == PLATFORMS_NAMES
    [(event, facts)] = reporter.warnings
    assert event == "store_indexes_missing"
    assert facts["fix"] == "cim-worker store apply"
    assert all(name in str(facts["indexes"]) for name in PLATFORMS_NAMES)


@pytest.mark.parametrize("number", [13, 67, 85, 86, 2, 77777])
async def test_each_index_the_store_refuses_is_said_once_and_the_others_are_made(
    store_uri: str, database: str, number: int
) -> None:
    reporter = RecordingReporter()
    refused = {index.name for index in indexes.OWN if index.collection == "conversations"}
    with wire.wire_proxy(store_uri) as proxy:
        store = connect(proxy.uri, database)
        refusing = proxy.on("createIndexes", collection="conversations", answer=wire.error(number, "SomeConflict"))
        await ensure_indexes(store, reporter)
        left = await missing(store)
        await store.close()

    assert left == refused
    assert refusing.count == len(reporter.warnings) == len(refused)
    assert {(event, facts["index"]) for event, facts in reporter.warnings} == {
        ("store_index_refused", name) for name in refused
    }
    assert all(f"{number} SomeConflict" in str(facts["reason"]) for _, facts in reporter.warnings)


async def test_indexes_that_may_not_be_seen_are_said_once_and_the_others_are_made(
    store_uri: str, database: str
) -> None:
    reporter = RecordingReporter()
    with wire.wire_proxy(store_uri) as proxy:
        store = connect(proxy.uri, database)
        rule = proxy.on("listIndexes", collection=COLLECTION, answer=wire.error(13, "Unauthorized"))
        await ensure_indexes(store, reporter)
        rule.end()
        left = await missing(store)
        await store.close()

    assert left == PLATFORMS_NAMES
    assert [event for event, _ in reporter.warnings] == ["store_indexes_unknown"]


@pytest.mark.parametrize("number", [91, 10107, 14031])
async def test_a_store_that_is_away_is_no_refusal(store_uri: str, database: str, number: int) -> None:
    with wire.wire_proxy(store_uri) as proxy:
        store = connect(proxy.uri, database)
        proxy.on("createIndexes", answer=wire.error(number))
        with pytest.raises(StoreUnavailable) as caught:
            await indexes.make(store, indexes.OWN[0])
        await store.close()

    assert caught.value.failure.code is Code.STORE_UNAVAILABLE
