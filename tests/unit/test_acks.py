"""The ledger of delivery tags, held against a model of what the broker remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.rabbit.acks import AckLedger

if TYPE_CHECKING:
    from collections.abc import Callable


class LedgerAndBroker(RuleBasedStateMachine):
    """The broker delivers tags in order and forgets those it is told of; telling it of another one ends the channel."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = AckLedger()
        self.last_tag = 0
        self.unacked: set[int] = set()
        self.proven: set[int] = set()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.last_tag += 1
            self.unacked.add(self.last_tag)

    @precondition(lambda self: self.last_tag)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Settle any tag ever delivered, told ones and settled ones included: that must do nothing."""
        tag = data.draw(st.integers(1, self.last_tag))
        self.ledger.settle(tag)
        if tag in self.unacked:
            self.proven.add(tag)

    @precondition(lambda self: self.unacked - self.proven)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unacked - self.proven)))
        self.ledger.give_back(tag)
        self.unacked.remove(tag)

    @rule(singles=st.booleans())
    def tell(self, singles: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        prefix, alone = self.ledger.take(singles=singles)
        if prefix is not None:
            assert prefix in self.unacked, "the end of a prefix must be a tag the broker still knows"
            told = {tag for tag in self.unacked if tag <= prefix}
            assert told <= self.proven, "acknowledged past an unfinished delivery"
            self.unacked -= told
        for tag in alone:
            assert tag in self.unacked, "told twice"
            assert tag in self.proven, "acknowledged an unfinished delivery"
            self.unacked.remove(tag)
        if singles:
            assert not self.unacked & self.proven, "everything proven is told"
        self.proven &= self.unacked

    @invariant()
    def what_is_proven_and_not_told_is_counted_as_held_back(self) -> None:
        assert self.ledger.held_back == len(self.proven)

    def teardown(self) -> None:
        for tag in sorted(self.unacked):
            self.settle_one(tag)
        self.tell(singles=False)
        assert not self.unacked, "once all is proven, a prefix tells all of it"

    def settle_one(self, tag: int) -> None:
        self.ledger.settle(tag)
        self.proven.add(tag)


LedgerAndBroker.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLedgerAndBroker = LedgerAndBroker.TestCase


def ledger(*steps: Callable[[AckLedger], object]) -> AckLedger:
    made = AckLedger()
    for step in steps:
        step(made)
    return made


def test_a_run_of_proven_deliveries_is_one_acknowledgement() -> None:
    made = ledger(*(lambda one, tag=tag: one.settle(tag) for tag in (2, 1, 3)))
    assert made.take() == (3, [])
    assert made.take() == (None, [])


def test_deliveries_behind_an_unfinished_one_wait_until_singles_are_asked_for() -> None:
    made = ledger(*(lambda one, tag=tag: one.settle(tag) for tag in (2, 4)))
    assert made.take() == (None, [])
    assert made.take(singles=True) == (None, [2, 4])
    made.settle(1)
    assert made.take() == (1, []), "2 was told before and cannot end the prefix"
    made.settle(3)
    assert made.take() == (3, [])
    made.settle(5)
    assert made.take() == (5, []), "4 is passed without being told again"
