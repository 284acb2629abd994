"""What a process remembers of active conversations."""

from __future__ import annotations

import pytest

from worker.conversations.cache import ConversationCache
from worker.conversations.conversation import ChannelSession, Conversation, ConversationState


def conversation(name: str, *sessions: str, state: str = "ACTIVE") -> Conversation:
    made = tuple(ChannelSession.of({"id": session}) for session in sessions)
    return Conversation(name, state, "customer", None, made, 1)


def cache(max_size: int = 10, ttl_ms: int = 1000) -> ConversationCache:
    return ConversationCache(max_size=max_size, ttl_ms=ttl_ms)


def test_a_conversation_is_found_by_its_id_and_by_each_session_until_it_is_stale() -> None:
    made, one = cache(), conversation("c", "s1", "s2")
    made.remember(one, 5.0, owns=("s1", "s2"))
    assert made.by_conversation("c", 6.0) is one
    assert made.by_session("s1", 6.0) is made.by_session("s2", 6.0) is one
    assert made.by_session("s1", 6.01) is None
    assert made.by_conversation("c", 6.01) is None


def test_what_is_remembered_is_bounded_by_bytes_too() -> None:
    large = [conversation(f"c-{number}", "s" * 1000) for number in range(5)]
    made = ConversationCache(max_size=100, ttl_ms=1000, max_bytes=2 * large[0].size)
    for one in [*large, large[4]]:
        made.remember(one, 5.0)
    assert [made.by_conversation(one.id, 5.0) for one in large] == [None, None, None, large[3], large[4]]
    made.forget("c-3")
    made.remember(conversation("too large", "s" * 3000), 5.0)
    made.remember(large[0], 5.0)
    assert len(made) == 2
    assert made.by_conversation("too large", 5.0) is None


def test_beyond_its_time_a_conversation_is_found_only_by_who_may_use_it_stale() -> None:
    made, one = cache(), conversation("c", "s1")
    made.remember(one, 5.0, owns=("s1", "s2"))
    assert made.by_conversation("c", 100.0, stale=True) is one
    assert made.by_session("s1", 100.0, stale=True) is one
    made.forget("c")
    assert made.by_conversation("c", 100.0, stale=True) is None


def test_what_nobody_told_is_unknown() -> None:
    assert cache().by_conversation("c", 0.0) is None
    assert cache().by_session("s", 0.0) is None
    cache().forget("c")


@pytest.mark.parametrize("state", list(ConversationState))
def test_only_active_conversations_are_remembered(state: str) -> None:
    made = cache()
    made.remember(conversation("c", "s"), 0.0, owns=("s",))
    made.remember(conversation("c", "s", state=state), 0.0, owns=("s",))
    remembered = state not in {"CLOSING", "CLOSED"}
    assert (made.by_conversation("c", 0.5) is not None) == remembered
    assert (made.by_session("s", 0.5) is not None) == remembered


def test_a_session_that_moved_is_found_at_its_new_conversation_even_when_the_old_one_is_forgotten() -> None:
    made = cache()
    made.remember(conversation("old", "s"), 0.0, owns=("s",))
    made.remember(new := conversation("new", "s"), 0.0, owns=("s",))
    made.forget("old")
    assert made.by_session("s", 0.5) is new


def test_news_replaces_what_was_known_sessions_included() -> None:
    made = cache()
    made.remember(conversation("c", "gone"), 0.0, owns=("gone",))
    made.remember(conversation("c", "here"), 0.0, owns=("here",))
    assert made.by_session("gone", 0.5) is None
    assert made.by_session("here", 0.5) is not None


def test_the_one_added_longest_ago_makes_room() -> None:
    made = cache(max_size=2)
    for name in ("a", "b", "c"):
        made.remember(conversation(name, f"s-{name}"), 0.0, owns=(f"s-{name}",))
    assert len(made) == 2
    assert made.by_conversation("a", 0.5) is None
    assert made.by_session("s-a", 0.5) is None
    assert made._by_session.keys() == {"s-b", "s-c"}


@pytest.mark.parametrize(("size", "ttl"), [(0, 1000), (10, 0)])
def test_zero_switches_it_off(size: int, ttl: int) -> None:
    made = cache(size, ttl)
    made.remember(conversation("c", "s"), 0.0, owns=("s",))
    assert len(made) == 0


def test_the_owner_of_a_session_stays_its_owner_whoever_else_has_it_is_remembered_later() -> None:
    made = cache()
    made.remember(conversation("other", "s"), 0.0)
    made.remember(owner := conversation("owner", "s"), 0.1, owns=("s",))
    made.remember(conversation("other", "s"), 0.5)
    assert made.by_session("s", 0.9) is owner
    made.remember(again := conversation("owner", "s"), 0.6)
    made.remember(conversation("other", "s"), 0.7)
    assert made.by_session("s", 0.9) is again
    made.forget("owner")
    made.remember(other := conversation("other", "s"), 0.5)
    assert made.by_session("s", 0.9) is other
