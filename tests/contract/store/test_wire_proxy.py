"""The proxy that plays a sick store: what the real driver sees of each answer, and that all else reaches the store."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, WriteConcernError

from tests.support import wire_proxy as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.collection import Collection


@pytest.fixture
def proxy(store_uri: str) -> Iterator[wire.WireProxy]:
    with wire.wire_proxy(store_uri) as made:
        yield made


@pytest.fixture
def collection(proxy: wire.WireProxy, database: str) -> Iterator[Collection[dict[str, Any]]]:
    options: dict[str, Any] = {"retryWrites": False, "retryReads": False, "socketTimeoutMS": 2000}
    with pymongo.MongoClient[dict[str, Any]](proxy.uri, **options) as client:
        yield client[database]["things"]


def test_what_no_rule_is_about_passes_through(proxy: wire.WireProxy, collection: Collection[dict[str, Any]]) -> None:
    proxy.on("insert", collection="others", answer=wire.error(8000))

    collection.insert_many([{"_id": number, "text": "x" * 100_000} for number in range(50)])

    assert collection.count_documents({}) == 50
    assert proxy.seen["insert"] == 1


def test_an_error_for_the_command_has_number_name_and_labels_and_nothing_is_written(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    rule = proxy.on("insert", collection="things", answer=wire.error(133, "NoSuch", labels=["RetryableWriteError"]))

    with pytest.raises(OperationFailure) as caught:
        collection.insert_one({"_id": 1})

    assert (caught.value.code, caught.value.has_error_label("RetryableWriteError")) == (133, True)
    assert rule.count == 1
    rule.end()
    collection.insert_one({"_id": 1})


def test_one_document_fails_and_the_others_are_stored(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    collection.insert_one({"_id": 3})
    proxy.on("insert", answer=wire.write_error(365, lambda document: document["_id"] == 1))

    with pytest.raises(BulkWriteError) as caught:
        collection.insert_many([{"_id": number} for number in range(5)], ordered=False)

    assert [(one["index"], one["code"]) for one in caught.value.details["writeErrors"]] == [(1, 365), (3, 11000)]
    assert {one["_id"] for one in collection.find()} == {0, 2, 3, 4}


def test_all_documents_fail_and_the_store_hears_of_none(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    proxy.on("insert", "update", answer=wire.write_error(16500))

    with pytest.raises(BulkWriteError) as caught:
        collection.insert_many([{}, {}, {}], ordered=False)
    with pytest.raises(OperationFailure) as also:
        collection.replace_one({"_id": 1}, {"a": 1}, upsert=True)

    assert len(caught.value.details["writeErrors"]) == 3
    assert also.value.code == 16500
    assert collection.count_documents({}) == 0


def test_a_write_is_done_and_said_not_to_be_on_a_majority(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    proxy.on("insert", answer=wire.write_concern_error(64, "WriteConcernTimeout"))

    with pytest.raises(WriteConcernError):
        collection.insert_one({"_id": 1})

    assert collection.count_documents({}) == 1


def test_silence_and_cut_connections_leave_the_effect_unknown(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    for number, (answer, stored) in enumerate([(wire.silence, 0), (wire.cut, 0), (wire.cut_after, 1)]):
        proxy.on("insert", answer=answer, times=1)
        with pytest.raises(AutoReconnect):
            collection.insert_one({"_id": number})
        assert collection.count_documents({"_id": number}) == stored


def test_an_answer_comes_late_by_seconds_or_by_a_factor(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    collection.find_one()
    for answer, seconds in ((wire.delayed(0.2), 0.2), (wire.slower(100), 0.02)):
        rule = proxy.on("find", answer=answer, times=1)
        started = time.monotonic()
        assert collection.find_one() is None
        assert time.monotonic() - started > seconds
        assert rule.count == 1


def test_a_rule_ends_after_its_times_and_healing_ends_all(
    proxy: wire.WireProxy, collection: Collection[dict[str, Any]]
) -> None:
    proxy.on("ping", answer=wire.error(1), times=2)
    admin = collection.database.client.admin
    for _ in range(2):
        with pytest.raises(OperationFailure):
            admin.command("ping")
    admin.command("ping")

    proxy.on(answer=wire.error(1))
    with pytest.raises(OperationFailure):
        admin.command("ping")
    proxy.heal()
    admin.command("ping")


def test_it_leaves_no_thread(store_uri: str) -> None:
    with wire.wire_proxy(store_uri) as one, pymongo.MongoClient[dict[str, Any]](one.uri) as client:
        client.admin.command("ping")
        one.cut_all()

    assert "wire proxy" not in {thread.name for thread in threading.enumerate()}
