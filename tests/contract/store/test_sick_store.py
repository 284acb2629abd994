"""A store that is there and fails: what the adapter makes of every number, said of a document or of a command.

Numbers of the table in `worker/mongo/errors.py` and fifty that are in no table, on every kind of command we send.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.contract.store.examples import NOW, activity, change, letter
from tests.support import wire_proxy as wire
from worker.codes import Code, FailureClass
from worker.failure import AdapterError, Failure, OperatorFault, StoreRefused, StoreUnavailable
from worker.mongo.activities import COLLECTION, ActivityStore
from worker.mongo.client import connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.errors import _CONTENT, _DOCUMENTS_OWN, _STORES_OWN, DUPLICATE_KEYS
from worker.mongo.registry import Registry
from worker.mongo.stored_activities import StoredActivities
from worker.pipeline.ports import Refused, Unproven, Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from worker.conversations.lifecycle import LifecycleChange
    from worker.mongo.client import Store

    OpenSick = Callable[[], AbstractAsyncContextManager[tuple[Store, wire.WireProxy]]]

UNLISTED: Final = (
    *(1, 3, 4, 5, 8, 9, 10, 12, 16, 17, 19, 20, 21, 23, 25, 26, 27, 28, 29, 30, 32, 34, 35, 36, 37, 38, 39, 40, 47),
    *(61, 68, 70, 76, 82, 94, 95, 96, 98, 117, 118, 125, 128, 133, 146, 150, 191, 206, 218, 222, 225, 246, 251, 256),
    *(263, 275, 277, 280, 282, 292, 301, 313, 317, 331, 334, 336, 341, 346, 358, 365, 373, 392, 396, 407, 13297, 16500),
    *(17405, 28799, 31082, 40415, 51024, 77777),
)
ACCESS: Final = tuple(number for number, (code, _) in _STORES_OWN.items() if code is Code.STORE_ACCESS_REFUSED)
AWAY: Final = tuple(number for number in _STORES_OWN if number not in ACCESS)
OWN: Final = tuple(number for number in _DOCUMENTS_OWN if number not in DUPLICATE_KEYS)
EVERY: Final = (*UNLISTED, *ACCESS, *AWAY, *OWN)
STATE_CHANGES: Final = frozenset({11600, 11602, 13435, 13436, 189, 91, 10058})
"""After one of these, and 10107, the driver looks at the server again, which takes it half a second."""


@pytest.fixture
def open_sick(store_uri: str, database: str) -> OpenSick:
    """Return a function that connects through a proxy."""
    from contextlib import asynccontextmanager  # noqa: PLC0415

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Store, wire.WireProxy]]:
        with wire.wire_proxy(store_uri) as proxy:
            store = connect(proxy.uri, database)
            try:
                yield store, proxy
            finally:
                await store.close()

    return opened


def test_fifty_numbers_are_in_no_table() -> None:
    assert len(set(UNLISTED)) >= 50
    assert not set(UNLISTED) & {*_STORES_OWN, *_DOCUMENTS_OWN}


async def test_a_number_said_of_one_document_leaves_its_neighbours_stored(open_sick: OpenSick) -> None:
    """Listed as the document's: refused at once. Everything else: nobody can tell, for the store took the others."""
    async with open_sick() as (store, proxy):
        for number in EVERY:
            good, bad, also_good = (activity(f"{name}-{number}") for name in ("a", "b", "c"))
            answer = wire.write_error(number, only(bad.event_id))
            first, result, last = await answered(store, proxy, "insert", answer, good, bad, also_good)

            assert (first, last) == (Written.STORED, Written.STORED), number
            assert type(result) is (Refused if number in OWN else Unproven), number
            assert isinstance(result, Refused | Unproven)
            assert str(number) in result.failure.detail
            expected = FailureClass.PERMANENT if number in OWN else UNPROVEN_CLASS(number)
            assert result.failure.failure_class is expected, number


async def test_a_number_said_of_every_document_is_the_stores_unless_it_is_listed_as_theirs(open_sick: OpenSick) -> None:
    async with open_sick() as (store, proxy):
        for number in EVERY:
            batch = [activity(f"m-{place}") for place in range(10)]
            if number in OWN:
                results = await answered(store, proxy, "insert", wire.write_error(number), *batch)
                assert {type(one) for one in results} == {Refused}, number
                continue
            failure = await failed(store, proxy, "insert", wire.write_error(number), *batch)
            assert failure.failure_class is COMMAND_CLASS(number), number
            assert str(number) in failure.detail


async def test_documents_that_fail_alike_right_after_another_was_stored_prove_nothing_against_the_store(
    open_sick: OpenSick,
) -> None:
    """Who sends many documents that it fails for must not close it to everybody else."""
    bad = [activity("bad-1"), activity("bad-2")]
    async with open_sick() as (store, proxy):
        activities = ActivityStore(store)
        answer = wire.write_error(365, lambda document: document["messageId"].startswith("bad"))
        proxy.on("insert", collection=COLLECTION, answer=answer)
        assert await activities.store([activity("good")], NOW) == [Written.STORED]
        assert [type(one) for one in await activities.store(bad, NOW + 900)] == [Unproven, Unproven]
        for later in (1000, -1):  # the clock may be set back
            with pytest.raises(StoreUnavailable):
                await activities.store(bad, NOW + later)


async def test_a_number_said_of_the_only_document_of_a_call_is_unproven_unless_it_is_listed(
    open_sick: OpenSick,
) -> None:
    async with open_sick() as (store, proxy):
        for number in EVERY:
            one, answer = activity("m-1"), wire.write_error(number)
            if number in ACCESS or number in AWAY:
                assert (await failed(store, proxy, "insert", answer, one)).failure_class is COMMAND_CLASS(number)
            else:
                [result] = await answered(store, proxy, "insert", answer, one)
                assert type(result) is (Refused if number in OWN else Unproven), number


@pytest.mark.parametrize("count", [1, 2, 200])
async def test_an_error_for_an_insert_as_a_whole_is_the_stores_and_costs_three_commands_at_most(
    open_sick: OpenSick, count: int
) -> None:
    async with open_sick() as (store, proxy):
        for number in set(EVERY) - set(_CONTENT) - (STATE_CHANGES if count > 1 else set()):
            batch = [activity(f"m-{place}") for place in range(count)]
            before = proxy.seen["insert"]
            failure = await failed(store, proxy, "insert", wire.error(number), *batch)
            assert failure.failure_class is COMMAND_CLASS(number), number
            # The driver tells a standalone server nothing twice; a replica set would double it.
            assert proxy.seen["insert"] - before <= 3, number


@pytest.mark.parametrize("number", [*sorted(_CONTENT), 2, 8, 40415])
async def test_a_command_refused_for_the_sake_of_one_document_is_done_without_it(
    open_sick: OpenSick, number: int
) -> None:
    """Too large, nested too deep: some servers refuse the whole command for one document."""
    batch = [activity(f"m-{place}") for place in range(40)]
    for place in (0, 17, 39):
        poisoned = only(batch[place].event_id)

        async def answer(exchange: wire.Exchange, poisoned: Callable[[Mapping[str, Any]], bool] = poisoned) -> None:
            if any(poisoned(one) for one in exchange.command.operations):
                await wire.error(number)(exchange)
            else:
                exchange.reply(await exchange.forward())

        async with open_sick() as (store, proxy):
            await store.database.drop_collection(COLLECTION)
            before = proxy.seen["insert"]
            results = await answered(store, proxy, "insert", answer, *batch)
            assert proxy.seen["insert"] - before <= 16

        assert [index for index, one in enumerate(results) if one is not Written.STORED] == [place]
        assert type(results[place]) is (Refused if number in _CONTENT else Unproven)


async def test_a_write_that_a_majority_has_not_got_is_neither_stored_nor_the_documents_fault(
    open_sick: OpenSick,
) -> None:
    async with open_sick() as (store, proxy):
        for number in (64, 91, 100, 79, 1, 121):
            failure = await failed(store, proxy, "insert", wire.write_concern_error(number), activity(f"m-{number}"))
            assert failure.code is Code.STORE_WRITE_UNCERTAIN


OPERATIONS: Final[Mapping[str, tuple[str, Callable[[Store], Awaitable[object]]]]] = {
    "ping": ("ping", lambda store: store.ping()),
    "find by conversation": ("find", lambda store: Registry(store).lookup(["c-1"], [])),
    "find by session": ("find", lambda store: Registry(store).lookup([], ["s-1"])),
    "find an activity": ("find", lambda store: ActivityStore(store).get(activity("m-1").event_id)),
    "list": ("find", lambda store: Registry(store).list()),
    "count": ("aggregate", lambda store: StoredActivities(store).count()),
    "read back": ("find", lambda store: ActivityStore(store).store([activity("taken")], NOW)),
    "insert conversations": ("insert", lambda store: Registry(store).apply_each(changes("c-1", "c-3"))),
    "replace conversations": ("update", lambda store: Registry(store).apply_each(changes("c-2", "c-4", at=NOW + 1))),
    "record a letter": ("insert", lambda store: DeadLetterStore(store).record([letter(1)], {})),
}
NOT_AN_ERROR: Final = {"count": {26}}
"""To the driver, a collection that does not exist holds nothing."""


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_error_for_any_other_command_is_the_stores(open_sick: OpenSick, name: str) -> None:
    command, operation = OPERATIONS[name]
    writes = command in {"insert", "update"}
    async with open_sick() as (store, proxy):
        await ActivityStore(store).store([activity("taken")], NOW)
        await Registry(store).apply_each(changes("c-2", "c-4"))
        for number in set(EVERY) - STATE_CHANGES - NOT_AN_ERROR.get(name, set()):
            if writes and number in _CONTENT:
                continue
            rule = proxy.on(command, answer=wire.error(number))
            with pytest.raises((StoreUnavailable, OperatorFault)) as caught:
                await operation(store)
            rule.end()
            assert rule.count >= 1
            assert caught.value.failure.failure_class is COMMAND_CLASS(number), number


async def test_a_registry_record_fails_alone_by_a_listed_number_and_is_left_open_by_others(open_sick: OpenSick) -> None:
    async with open_sick() as (store, proxy):
        for number in (*OWN, *UNLISTED):
            rule = proxy.on("insert", "update", answer=wire.write_error(number))
            with pytest.raises(StoreRefused) as caught:
                await Registry(store).apply(change("c-1", NOW, state="ACTIVE"))
            rule.end()
            expected = FailureClass.PERMANENT if number in OWN else FailureClass.UNKNOWN
            assert caught.value.failure.failure_class is expected, number


async def test_an_error_for_the_write_of_a_single_registry_record_is_left_open_unless_it_is_listed(
    open_sick: OpenSick,
) -> None:
    """It may be the store's fault or the record's: who applies lifecycle events asks others before it spends a try."""
    async with open_sick() as (store, proxy):
        for number in set(EVERY) - STATE_CHANGES - set(_CONTENT):
            rule = proxy.on("insert", answer=wire.error(number))
            with pytest.raises(AdapterError) as caught:
                await Registry(store).apply(change("c-1", NOW, state="ACTIVE"))
            rule.end()
            assert caught.value.failure.failure_class is UNPROVEN_CLASS(number), number


async def test_what_the_operator_wants_to_know_is_said_and_the_servers_text_is_not(open_sick: OpenSick) -> None:
    async with open_sick() as (store, proxy):
        secret = "document { body: 'private' }: cannot use 'j' option when a host does not have journaling enabled"
        failure = await failed(store, proxy, "insert", wire.error(2, "BadValue", message=secret), activity("m-1"))

    assert failure.detail.endswith("(OperationFailure 2 BadValue: it has no journal)")


async def test_a_slow_store_is_not_down_and_a_silent_one_is_after_exactly_the_configured_time(
    store_uri: str, database: str
) -> None:
    """Slow in everything, the driver's own heartbeat included, which comes every half second here."""
    with wire.wire_proxy(store_uri) as proxy:
        uri = f"{proxy.uri}&heartbeatFrequencyMS=500"
        store = connect(uri, database, timeout_ms=2000, selection_timeout_ms=200)
        await store.ping()
        proxy.on(answer=wire.delayed(0.6))
        for _ in range(4):
            await Registry(store).lookup(["c-1"], [])
        assert proxy.seen["find"] == 4

        proxy.on("find", answer=wire.silence)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await Registry(store).lookup(["c-1"], [])
        assert 1.9 < time.monotonic() - started < 3.5
        await store.close()


def COMMAND_CLASS(number: int) -> FailureClass:  # noqa: N802 - a table in the form of a function
    """What a number means when the store is at fault."""
    return FailureClass.OPERATOR if number in ACCESS else FailureClass.OUTAGE


def UNPROVEN_CLASS(number: int) -> FailureClass:  # noqa: N802 - as above
    """What a number means that hit one document while its neighbours were stored."""
    return COMMAND_CLASS(number) if number in _STORES_OWN else FailureClass.UNKNOWN


def changes(*conversation_ids: str, at: int = NOW) -> list[LifecycleChange]:
    return [change(conversation_id, at, state="ACTIVE", customer="customer-1") for conversation_id in conversation_ids]


def only(event_id: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda document: str(document["_id"]) == event_id


async def answered(store: Store, proxy: wire.WireProxy, command: str, answer: wire.Answer, *activities: Any) -> Any:
    """Store *activities* while *command* is answered so; return the results."""
    rule = proxy.on(command, collection=COLLECTION, answer=answer)
    try:
        return await ActivityStore(store).store(activities, NOW)
    finally:
        rule.end()


async def failed(store: Store, proxy: wire.WireProxy, command: str, answer: wire.Answer, *activities: Any) -> Failure:
    """Store *activities* while *command* is answered so; return the failure by which the store is blamed."""
    with pytest.raises((StoreUnavailable, OperatorFault)) as caught:
        await answered(store, proxy, command, answer, *activities)
    error: AdapterError = caught.value
    return error.failure
