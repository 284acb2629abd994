"""The registry: looked up in one query per kind of id, changed by many workers without undoing each other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from tests.contract.store.examples import NOW, change
from tests.support import wire_proxy as wire
from worker.codes import Code
from worker.conversations.conversation import ConversationRecord, SessionFact, UnreadableRecord
from worker.conversations.lifecycle import LifecycleChange
from worker.conversations.ports import Applied
from worker.failure import Failure, StoreRefused
from worker.mongo.client import connect
from worker.mongo.registry import COLLECTION, Registry

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore


async def test_a_change_to_an_unknown_conversation_makes_it_known(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)

        record = (await registry.apply(change("c-1", NOW, state="ACTIVE", session="s-1", customer="u-1"))).record

        assert record == await registry.get("c-1")
        document = await store.collection(COLLECTION).find_one({"_id": "c-1"})
    assert document is not None
    assert (document["state"], document["customerId"], document["channelSessionIds"]) == ("ACTIVE", "u-1", ["s-1"])


async def test_a_later_change_wins_and_an_earlier_one_changes_nothing(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        await registry.apply(change("c-1", NOW + 10, state="CLOSED"))

        late = (await registry.apply(change("c-1", NOW, state="ACTIVE"))).record

        assert late.state.value == "CLOSED"
        assert late == await registry.get("c-1")


async def test_the_same_change_twice_is_written_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        first = await registry.apply(change("c-1", NOW, state="ACTIVE", session="s-1"))
        before = await store.collection(COLLECTION).find_one({"_id": "c-1"})

        assert await registry.apply(change("c-1", NOW, state="ACTIVE", session="s-1")) == Applied(
            first.record, written=False
        )

        assert await store.collection(COLLECTION).find_one({"_id": "c-1"}) == before


async def test_workers_that_race_do_not_undo_each_other(open_store: OpenStore) -> None:
    """Two workers, forty sessions of one conversation at once: every session is there afterwards."""
    async with open_store(timeout_ms=60_000) as one, open_store(timeout_ms=60_000) as other:
        registries = [Registry(one), Registry(other)]
        await asyncio.gather(
            *(registries[number % 2].apply(change("c-1", NOW + number, session=f"s-{number}")) for number in range(40))
        )
        record = await registries[0].get("c-1")

    assert isinstance(record, ConversationRecord)
    assert {fact.value["id"] for fact in record.sessions} == {f"s-{number}" for number in range(40)}


async def test_workers_that_create_the_same_conversation_at_once_both_count(open_store: OpenStore) -> None:
    async with open_store() as one, open_store() as other:
        for number in range(10):
            await asyncio.gather(
                Registry(one).apply(change(f"c-{number}", NOW, state="ACTIVE")),
                Registry(other).apply(change(f"c-{number}", NOW, customer="u-1")),
            )
        records = await Registry(one).list()

    readable = [record for record in records if isinstance(record, ConversationRecord)]
    assert {(record.state.value, record.customer_id.value) for record in readable} == {("ACTIVE", "u-1")}
    assert len(records) == 10


async def test_a_record_written_by_hand_can_be_changed(open_store: OpenStore) -> None:
    """Somebody may have put a document there without our times and without a revision."""
    async with open_store() as store:
        await store.collection(COLLECTION).insert_one({"_id": "c-1", "state": "ACTIVE", "customerId": "u-1"})
        registry = Registry(store)

        assert (await registry.apply(change("c-1", NOW, state="CLOSED"))).record.state.value == "CLOSED"
        assert (await registry.apply(change("c-1", NOW + 1, state="ACTIVE"))).record.state.value == "ACTIVE"

        record = await registry.get("c-1")
    assert isinstance(record, ConversationRecord)
    assert record.customer_id.value == "u-1"


async def test_lookup_answers_for_conversations_and_for_their_sessions(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        await registry.apply(change("c-1", NOW, state="ACTIVE", session="s-1"))
        first = (await registry.apply(change("c-1", NOW + 1, session="s-2"))).record
        second = (await registry.apply(change("c-2", NOW, state="CLOSED", session="s-3"))).record

        lookup = await registry.lookup(["c-1", "unknown", "c-1"], ["s-2", "s-3", "nobody's"])

    assert lookup.by_conversation == {"c-1": first}
    assert lookup.by_session == {"s-2": first, "s-3": second}


async def test_lookup_of_nothing_asks_nothing_and_knows_nothing(open_store: OpenStore) -> None:
    async with open_store() as store:
        lookup = await Registry(store).lookup([], [])

    assert (lookup.by_conversation, lookup.by_session) == ({}, {})


async def test_a_session_of_two_conversations_belongs_to_the_active_one(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        await registry.apply(change("c-1", NOW, state="ACTIVE", session="s"))
        await registry.apply(change("c-2", NOW + 5, state="CLOSED", session="s"))

        lookup = await registry.lookup([], ["s"])

    assert lookup.by_session["s"].id == "c-1"


async def test_a_session_of_two_closed_conversations_belongs_to_the_one_in_which_it_started_last(
    open_store: OpenStore,
) -> None:
    """Closing is no claim: c-1 is closed long after the session moved on to c-2."""
    async with open_store() as store:
        registry = Registry(store)
        await registry.apply(change("c-1", NOW, state="ACTIVE", session="s"))
        await registry.apply(change("c-2", NOW + 5, state="ACTIVE", session="s"))
        assert (await registry.lookup([], ["s"])).by_session["s"].id == "c-2"
        await registry.apply(change("c-2", NOW + 10, state="CLOSED"))
        assert (await registry.lookup([], ["s"])).by_session["s"].id == "c-1", "it is active"
        await registry.apply(change("c-1", NOW + 20, state="CLOSED"))

        lookup = await registry.lookup([], ["s"])

    assert lookup.by_session["s"].id == "c-2"


async def test_many_changes_at_once_each_have_their_own_answer(open_store: OpenStore) -> None:
    """New ones, known ones, two of one conversation, one that cannot be encoded and one nobody can read."""
    bad = LifecycleChange("c-bad", "E", NOW, sessions=(SessionFact({"id": "s", "\x00": 1}, NOW),))
    async with open_store() as store:
        registry = Registry(store)
        await registry.apply(change("c-known", NOW, state="ACTIVE"))
        await store.collection(COLLECTION).insert_one({"_id": "c-odd", "state": 5})
        changes = [
            change("c-new", NOW, state="ACTIVE"),
            change("c-known", NOW, state="ACTIVE"),
            bad,
            change("c-bad", NOW, state="ACTIVE"),
            change("c-odd", NOW, state="ACTIVE"),
            change("c-new", NOW + 1, state="CLOSED"),
        ]

        new, known, encoded, good, odd, newer = await registry.apply_each(changes)
        records = await registry.read(["c-new", "c-known", "c-bad"])

    assert isinstance(new, Applied)
    assert isinstance(known, Applied)
    assert (new, known.written) == (newer, False)
    assert isinstance(encoded, Failure)
    assert encoded.code is Code.NOT_ENCODABLE
    assert isinstance(good, Applied), "its neighbour of the same conversation is not at fault"
    assert isinstance(odd, Failure)
    assert odd.code is Code.UNREADABLE_RECORD
    assert {key: record.state.value for key, record in records.items()} == {
        "c-new": "CLOSED",
        "c-known": "ACTIVE",
        "c-bad": "ACTIVE",
    }


async def test_somebody_else_s_unique_index_refuses_one_record_and_not_its_neighbours(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        await store.collection(COLLECTION).create_index([("customerId", 1)], unique=True)
        await registry.apply(change("c-1", NOW, state="ACTIVE", customer="u-1"))

        second, other = await registry.apply_each(
            [change("c-2", NOW, state="ACTIVE", customer="u-1"), change("c-3", NOW, state="ACTIVE", customer="u-3")]
        )

    assert isinstance(second, Failure)
    assert second.code is Code.STORE_REJECTED
    assert isinstance(other, Applied)


async def test_exchanges_that_are_gone_are_noted_unless_the_conversation_is_active_again(open_store: OpenStore) -> None:
    async with open_store() as store:
        registry = Registry(store)
        for name in ("a", "b", "c"):
            await registry.apply(change(name, NOW, state="ACTIVE"))
            await registry.apply(change(name, NOW + 1, state="CLOSED"))
        await registry.apply(change("b", NOW + 2, state="ACTIVE"))
        leftovers = await registry.with_exchange(active=False, limit=10, after="")

        await registry.exchanges_deleted(["a", "b"])

        rest = await registry.with_exchange(active=False, limit=10, after="")
        reopened = (await registry.apply(change("a", NOW + 3, state="ACTIVE"))).record
        active = await registry.with_exchange(active=True, limit=10, after="")
    assert [record.id for record in leftovers] == ["a", "c"]
    assert [record.id for record in rest] == ["c"]
    assert reopened.has_exchange
    assert [record.id for record in active] == ["a", "b"]


async def test_lookup_takes_more_ids_than_one_query_holds(open_store: OpenStore) -> None:
    async with open_store(timeout_ms=60_000) as store:
        registry = Registry(store)
        for number in range(0, 1200, 400):
            await registry.apply(change(f"c-{number}", NOW, session=f"s-{number}"))

        ids = range(1200)
        lookup = await registry.lookup([f"c-{number}" for number in ids], [f"s-{number}" for number in ids])

    assert sorted(lookup.by_conversation) == ["c-0", "c-400", "c-800"]
    assert sorted(lookup.by_session) == ["s-0", "s-400", "s-800"]


async def test_conversations_are_listed_by_state_in_pages(open_store: OpenStore) -> None:
    states = {"c-1": "ACTIVE", "c-2": "CLOSED", "c-3": "CLOSING", "c-4": "WRAP_UP", "c-5": "ACTIVE"}
    async with open_store() as store:
        registry = Registry(store)
        for conversation_id, state in states.items():
            await registry.apply(change(conversation_id, NOW, state=state))

        everything = await registry.list()
        active = await registry.list(active=True)
        over = await registry.list(active=False)
        closed = await registry.list(state="CLOSED")
        nothing = await registry.list(state="CLOSED", active=True)
        page = await registry.list(limit=2, after="c-2")

    assert [record.id for record in everything] == ["c-1", "c-2", "c-3", "c-4", "c-5"]
    assert [record.id for record in active] == ["c-1", "c-4", "c-5"]
    assert [record.id for record in over] == ["c-2", "c-3"]
    assert [record.id for record in closed] == ["c-2"]
    assert nothing == []
    assert [record.id for record in page] == ["c-3", "c-4"]


async def test_pages_come_to_an_end_though_ids_are_no_utf_8(store_uri: str, database: str) -> None:
    """They read as ids that stand before themselves. Answered for the server, for not every one keeps such bytes."""
    ids = [b"c-1", b"\xfe1", b"\xff2"]  # in the order of a server

    async def answer(exchange: wire.Exchange) -> None:
        command = exchange.command.body
        after = command["filter"]["_id"]["$gt"].encode()
        page = [_record_of(one) for one in ids if one > after][: command["limit"]]
        exchange.reply({"ok": 1, "cursor": {"id": 0, "ns": f"{database}.{COLLECTION}", "firstBatch": page}})

    with wire.wire_proxy(store_uri) as proxy:
        proxy.on("find", collection=COLLECTION, answer=answer)
        store = connect(proxy.uri, database)
        found: list[str] = []
        after = ""
        for _ in range(5):
            page = [record.id for record in await Registry(store).list(limit=3, after=after)]
            if not page:
                break
            found, after = found + page, page[-1]
        await store.close()

    assert found == ["c-1", "\ufffd1", "\ufffd2"]


def _record_of(raw_id: bytes) -> RawBSONDocument:
    return RawBSONDocument(bson.encode({"_id": "x" * len(raw_id)}).replace(b"x" * len(raw_id), raw_id))


async def test_a_change_that_cannot_be_encoded_is_refused(open_store: OpenStore) -> None:
    bad = LifecycleChange("c-1", "CHANNEL_SESSION_STARTED", NOW, sessions=(SessionFact({"id": "s", "\x00": 1}, NOW),))
    async with open_store() as store:
        with pytest.raises(StoreRefused):
            await Registry(store).apply(bad)

        assert await Registry(store).get("c-1") is None


async def test_a_record_nobody_can_read_is_unknown_and_its_neighbours_are_found(open_store: OpenStore) -> None:
    """Somebody wrote a date where a number belongs, a number as the id, a number where an array belongs."""
    met: list[UnreadableRecord] = []
    async with open_store() as store:
        registry = Registry(store, met.append)
        good = (await registry.apply(change("c-good", NOW, state="ACTIVE", session="s-1"))).record
        await store.collection(COLLECTION).insert_many(
            [
                {"_id": "c-date", "state": "ACTIVE", "stateUpdatedAt": datetime.now(UTC), "channelSessionIds": ["s-1"]},
                {"_id": 5, "state": "ACTIVE", "channelSessionIds": ["s-1"]},
                {"_id": "c-times", "state": "CLOSED", "channelSessionUpdatedAt": 5},
            ]
        )

        lookup = await registry.lookup(["c-good", "c-date", "c-times"], ["s-1"])
        listed = await registry.list()
        shown = await registry.get("c-date")
        with pytest.raises(StoreRefused) as refused:
            await registry.apply(change("c-date", NOW, state="CLOSED"))

    assert lookup.by_conversation == {"c-good": good}
    assert lookup.by_session == {"s-1": good}
    assert {one.id for one in met} == {"c-date", "c-times", "5"}
    assert {one.id for one in listed if isinstance(one, UnreadableRecord)} == {"c-date", "c-times", "5"}
    assert isinstance(shown, UnreadableRecord)
    assert refused.value.failure.code is Code.UNREADABLE_RECORD
