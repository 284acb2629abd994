"""What a confirm speaks of, and what a return does, are found whatever came before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from worker.rabbit.outstanding import Outstanding, Run

if TYPE_CHECKING:
    from worker.ports import Confirmation

STEPS = st.lists(
    st.tuples(st.just("publish"), st.integers(1, 5))
    | st.tuples(st.sampled_from(["confirm", "confirm up to"]), st.integers(0, 40)),
    max_size=30,
)


class Window:
    """Is never told anything here."""

    def settle(self, index: int, count: int, confirmation: Confirmation) -> None:
        raise AssertionError(index, count, confirmation)


def tags_of(runs: Any) -> list[tuple[int, Any, int]]:
    return [(run.first + place, run.window, run.index + place) for run in runs for place in range(len(run.ids))]


@given(STEPS)
def test_each_publish_is_taken_once_by_the_first_confirm_that_speaks_of_it(steps: list[tuple[str, int]]) -> None:
    outstanding = Outstanding()
    waiting: dict[int, tuple[Window, int]] = {}
    next_tag = 1
    for step, number in steps:
        if step == "publish":
            window = Window()
            outstanding.add(Run(next_tag, [f"m-{next_tag + place}" for place in range(number)], window, 7))
            waiting |= {next_tag + place: (window, 7 + place) for place in range(number)}
            next_tag += number
        else:
            spoken_of = [tag for tag in waiting if tag == number or (step == "confirm up to" and tag < number)]
            taken = outstanding.take(number, multiple=step == "confirm up to")
            assert tags_of(taken) == [(tag, *waiting.pop(tag)) for tag in spoken_of]
        assert len(outstanding) == len(waiting)
        assert [tag for tag in range(200) if outstanding.holds(tag)] == list(waiting)
        assert [tag for tag in range(200) if outstanding.tag_of(f"m-{tag}") == tag] == list(waiting)
    assert tags_of(outstanding.take_all()) == [(tag, *place) for tag, place in waiting.items()]
    assert len(outstanding) == 0


def test_ids_that_wait_or_come_twice_are_not_new() -> None:
    outstanding = Outstanding()
    outstanding.add(Run(1, ["a", None], Window(), 0))
    assert outstanding.are_new(["b", "c"])
    assert not outstanding.are_new(["b", "a"])
    assert not outstanding.are_new(["b", "b"])
    outstanding.take(1, multiple=False)
    assert outstanding.are_new(["b", "a"])
    assert not outstanding.holds("2")
