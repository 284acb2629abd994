"""What the pipeline expects of store and registry, held against the real ones and its tests' fakes.

The store's own, larger suite is in `tests/contract/store`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.store.examples import activity
from tests.support.fakes import FakeRegistry, FakeStore
from worker.conversations.conversation import ConversationRecord, Fact, SessionFact
from worker.conversations.lifecycle import LifecycleChange
from worker.mongo.activities import ActivityStore
from worker.mongo.client import connect
from worker.mongo.registry import Registry
from worker.pipeline.ports import Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.services.services import Store
    from worker.conversations.ports import ConversationLookup
    from worker.pipeline.ports import ActivityWriter

    OpenStore = Callable[[], AbstractAsyncContextManager[ActivityWriter]]
    OpenRegistry = Callable[[Sequence[LifecycleChange]], AbstractAsyncContextManager[ConversationLookup]]

NOW = 1_760_000_000_000


@pytest.fixture(params=["real", "fake"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Return how to open the store under test."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[ActivityWriter]:
        if request.param == "fake":
            yield FakeStore()
            return
        service: Store = request.getfixturevalue("store")
        store = connect(service.uri, request.getfixturevalue("database"))
        try:
            yield ActivityStore(store)
        finally:
            await store.close()

    if request.param == "real":
        request.getfixturevalue("database")
    return opened


@pytest.fixture(params=["real", "fake"])
def open_registry(request: pytest.FixtureRequest) -> OpenRegistry:
    """Return how to open the registry under test with what it has been told."""

    @asynccontextmanager
    async def opened(changes: Sequence[LifecycleChange]) -> AsyncIterator[ConversationLookup]:
        if request.param == "fake":
            yield FakeRegistry({change.conversation_id: as_record(change) for change in changes})
            return
        service: Store = request.getfixturevalue("store")
        store = connect(service.uri, request.getfixturevalue("database"))
        try:
            registry = Registry(store)
            for change in changes:
                await registry.apply(change)
            yield registry
        finally:
            await store.close()

    if request.param == "real":
        request.getfixturevalue("database")
    return opened


def as_record(change: LifecycleChange) -> ConversationRecord:
    state = change.state or Fact("UNKNOWN", 0)
    return ConversationRecord(change.conversation_id, state, Fact(None, 0), Fact(None, 0), change.sessions)


async def test_an_event_is_stored_once_then_a_duplicate_and_never_overwritten(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await store.store([activity("1"), activity("2")], NOW) == [Written.STORED, Written.STORED]
        assert await store.store([activity("1"), activity("3")], NOW) == [Written.DUPLICATE, Written.STORED]
        assert await store.store([activity("1", "other")], NOW) == [Written.STORED]
        assert await store.store([activity("1")], NOW) == [Written.DUPLICATE]


async def test_repetitions_and_other_content_within_one_call_are_told_apart(open_store: OpenStore) -> None:
    async with open_store() as store:
        batch = [activity("1"), activity("1"), activity("1", "other"), activity("2"), activity("1")]
        assert await store.store(batch, NOW) == [
            Written.STORED,
            Written.DUPLICATE,
            Written.STORED,
            Written.STORED,
            Written.DUPLICATE,
        ]


async def test_nothing_to_store_is_done_at_once(open_store: OpenStore) -> None:
    async with open_store() as store:
        assert await store.store([], NOW) == []


async def test_a_lookup_answers_by_conversation_and_by_session_and_leaves_out_what_it_does_not_know(
    open_registry: OpenRegistry,
) -> None:
    changes = [
        LifecycleChange(
            "a",
            "E",
            5,
            state=Fact("ACTIVE", 5),
            sessions=(SessionFact({"id": "s1"}, 5), SessionFact({"id": "s2"}, 6)),
        ),
        LifecycleChange("b", "E", 5, state=Fact("CLOSED", 5), sessions=(SessionFact({"id": "s3"}, 5),)),
    ]
    async with open_registry(changes) as registry:
        found = await registry.lookup({"a", "unknown"}, {"s2", "s3", "unknown"})
        assert {key: record.id for key, record in found.by_conversation.items()} == {"a": "a"}
        assert {key: record.id for key, record in found.by_session.items()} == {"s2": "a", "s3": "b"}
        assert found.by_session["s3"].to_conversation().active is False
        nothing = await registry.lookup(set(), set())
        assert not nothing.by_conversation
        assert not nothing.by_session
