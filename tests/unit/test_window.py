"""How many deliveries a process dares to hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.flow.window import Window

FRESH = (0, 1000)


def taken(pairs: list[tuple[int, int]]) -> tuple[int, int, int]:
    """Return what is said of a batch of (deliveries before, bytes)."""
    return len(pairs), sum(size for _, size in pairs), max(before for before, _ in pairs)


def window(full: int = 1000, max_bytes: int = 32 << 20) -> Window:
    return Window(full, max_bytes)


def test_it_begins_with_one_delivery() -> None:
    assert window().size == 1


def test_a_first_fresh_delivery_opens_it_carefully_and_sixty_four_fully() -> None:
    made = window()
    assert made.observe(*taken([FRESH]))
    assert made.size == 32
    assert not made.observe(*taken([FRESH] * 62))
    assert made.observe(*taken([FRESH]))
    assert made.size == 1000


def test_a_delivery_handed_out_once_before_keeps_it_careful() -> None:
    made = window()
    made.observe(*taken([(1, 1000)]))
    assert made.size == 32


def test_one_hand_out_that_is_forgiven_says_nothing_and_a_second_keeps_it_careful() -> None:
    made = Window(1000, 32 << 20, forgiven=1)
    made.observe(*taken([(1, 1000)]))
    assert made.size == 1000, "with the first one"
    made.observe(*taken([(2, 1000)]))
    assert made.size == 32
    made.observe(*taken([(3, 1000)]))
    assert made.size == 1


def test_a_delivery_handed_out_several_times_is_taken_alone() -> None:
    made = window()
    assert not made.observe(*taken([(2, 1000)]))
    assert made.size == 1
    made.observe(*taken([FRESH] * 100))
    assert made.size == 1000
    assert made.observe(*taken([FRESH, (2, 1000)]))
    assert made.size == 1


def test_calm_is_counted_from_the_last_redelivered_one() -> None:
    made = window()
    made.observe(*taken([FRESH] * 60 + [(1, 1000)]))
    made.observe(*taken([FRESH] * 60))
    assert made.size == 32


def test_large_bodies_shrink_it_to_what_the_bytes_allow() -> None:
    made = window(max_bytes=32 << 20)
    made.observe(*taken([(0, 1 << 20)] * 100))
    assert made.size == 32
    made.observe(*taken([(0, 8 << 20)] * 100))
    assert made.size == 4
    made.observe(*taken([(0, 1 << 30)] * 100))
    assert made.size == 1, "one is always taken, however large"
    made.observe(*taken([FRESH] * 500))
    assert made.size == 1000


def test_empty_bodies_are_no_division_by_zero() -> None:
    made = window()
    made.observe(*taken([(0, 0)] * 100))
    assert made.size == 1000


def test_a_small_correction_is_not_worth_a_new_consumer() -> None:
    made = window(max_bytes=1000 * 1000)
    made.observe(*taken([FRESH] * 100))
    assert made.size == 1000
    assert not made.observe(*taken([(0, 1300)] * 100))
    assert made.size == 1000


@given(
    st.integers(1, 2000),
    st.integers(1, 1 << 30),
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1 << 27)), min_size=1, max_size=70), max_size=20),
)
def test_it_stays_between_one_and_full_and_says_when_it_changes(
    full: int, max_bytes: int, batches: list[list[tuple[int, int]]]
) -> None:
    made = window(full, max_bytes)
    for batch in batches:
        before = made.size
        assert made.observe(*taken(batch)) == (made.size != before)
        assert 1 <= made.size <= full


def test_it_stays_as_it_is_while_more_would_only_wait() -> None:
    made = window()
    made.observe(*taken([FRESH]))
    assert not made.observe(*taken([FRESH] * 100), may_grow=False)
    assert made.size == 32
    assert made.observe(*taken([FRESH]), may_grow=True)
    assert made.size == 1000
    assert not made.observe(*taken([FRESH]), may_grow=False)
    assert made.observe(*taken([(1, 1000)]), may_grow=False), "it may shrink"
