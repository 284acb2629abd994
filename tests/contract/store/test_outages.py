"""A store that is away: said quickly and clearly, nothing half-believed, and everything is fine again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract.store.examples import NOW, activity, change, letter
from tests.services.processes import free_ports
from worker.codes import Code
from worker.failure import OperatorFault, StoreUnavailable
from worker.mongo import indexes
from worker.mongo.activities import COLLECTION, ActivityStore
from worker.mongo.client import Store, connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.registry import Registry
from worker.pipeline.ports import Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.services.store import LocalStore
    from worker.pipeline.ports import StoreResult
    from worker.pipeline.translate import Activity

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("late_sockets"),
]

STORED, DUPLICATE = Written.STORED, Written.DUPLICATE


@contextlib.asynccontextmanager
async def connected(
    server: LocalStore, *, timeout_ms: int = 10_000, selection_timeout_ms: int = 300
) -> AsyncIterator[Store]:
    """Connect to an empty database of a server that will be broken."""
    name = f"outage_{time.monotonic_ns()}"
    store = connect(server.uri, name, timeout_ms=timeout_ms, selection_timeout_ms=selection_timeout_ms)
    try:
        yield store
    finally:
        await store.close()


async def test_a_server_that_is_not_there_is_noticed_within_the_selection_timeout() -> None:
    store = connect(f"mongodb://127.0.0.1:{free_ports(1)[0]}/", "anything", selection_timeout_ms=300)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.ping()
    await store.close()

    assert time.monotonic() - started < 3
    assert caught.value.failure.code is Code.STORE_UNAVAILABLE


async def test_everything_that_needs_the_store_says_so_while_it_is_killed(breakable_store: LocalStore) -> None:
    async with connected(breakable_store) as store:
        await store.ping()
        breakable_store.kill()

        for attempt in (
            store.ping(),
            ActivityStore(store).store([activity("m-1")], NOW),
            ActivityStore(store).get(activity("m-1").event_id),
            indexes.missing(store, COLLECTION),
            indexes.make(store, indexes.OWN[0]),
            Registry(store).apply(change("c-1", NOW, state="ACTIVE")),
            Registry(store).lookup(["c-1"], []),
            Registry(store).lookup([], ["s-1"]),
            Registry(store).get("c-1"),
            Registry(store).list(),
            DeadLetterStore(store).record([letter(1)], {}),
            DeadLetterStore(store).get(letter(1).id),
        ):
            with pytest.raises(StoreUnavailable):
                await attempt


async def test_what_was_acknowledged_before_a_kill_is_there_after_the_restart(breakable_store: LocalStore) -> None:
    batch = [activity(f"m-{number}") for number in range(50)]
    async with connected(breakable_store) as store:
        assert await ActivityStore(store).store(batch, NOW) == [STORED] * 50
        breakable_store.kill()
        breakable_store.start()

        assert await _until_it_answers(store, batch) == [DUPLICATE] * 50


async def test_a_batch_interrupted_by_a_kill_is_done_again_without_loss_or_repetition(
    breakable_store: LocalStore,
) -> None:
    batch = [activity(f"m-{number}") for number in range(3000)]
    async with connected(breakable_store, timeout_ms=30_000) as store:
        await store.ping()
        writing = asyncio.create_task(ActivityStore(store).store(batch, NOW))
        await _some_documents(store)
        breakable_store.kill()
        with contextlib.suppress(StoreUnavailable):  # A fast server may have finished before the kill.
            await writing
        breakable_store.start()

        results = await _until_it_answers(store, batch)

        assert set(results) <= {STORED, DUPLICATE}
        assert DUPLICATE in results
        assert await store.collection(COLLECTION).count_documents({}) == 3000


async def test_a_frozen_server_is_given_up_at_the_deadline_and_used_again_when_it_thaws(
    breakable_store: LocalStore,
) -> None:
    async with connected(breakable_store, timeout_ms=1000) as store:
        await store.ping()
        breakable_store.freeze()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ActivityStore(store).store([activity("m-1")], NOW)
        assert time.monotonic() - started < 4

        breakable_store.thaw()

        # The write that was given up may have arrived after all: that is why it is done again, and harmless.
        assert await _until_it_answers(store, [activity("m-1")]) in ([STORED], [DUPLICATE])
        assert await store.collection(COLLECTION).count_documents({}) == 1


async def test_an_address_that_cannot_be_used_is_an_operators_fault() -> None:
    with pytest.raises(OperatorFault) as caught:
        connect("mongodb://user:secret@localhost:not-a-port/", "anything")

    assert caught.value.failure.code is Code.STORE_ACCESS_REFUSED
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def _some_documents(store: Store) -> None:
    async with asyncio.timeout(20):
        while not await store.collection(COLLECTION).find_one({}):  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0)


async def _until_it_answers(store: Store, batch: list[Activity]) -> list[StoreResult]:
    """Do the whole batch again until there is an answer, as the pipeline does."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await ActivityStore(store).store(batch, NOW)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
