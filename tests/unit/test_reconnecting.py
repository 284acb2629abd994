"""Whoever loses the broker comes back after pauses that fit the reason."""

from __future__ import annotations

import pytest

from worker.codes import Code
from worker.failure import Failure
from worker.flow.reconnecting import Reconnecting

LOST, REFUSED = Failure.of(Code.BROKER_UNAVAILABLE), Failure.of(Code.BROKER_ACCESS_REFUSED)


def test_pauses_grow_until_a_connection_has_lived_for_a_while() -> None:
    reconnecting = Reconnecting(random=lambda: 1.0)
    pauses = [reconnecting.pause_after(LOST, lasted) for lasted in (0, 0, 5, 6, 0)]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 0.2, 0.4])


def test_what_only_an_operator_can_end_is_tried_seldom_and_lets_no_pause_grow() -> None:
    reconnecting = Reconnecting(random=lambda: 1.0)
    assert [reconnecting.pause_after(REFUSED, 0) for _ in range(3)] == [10, 10, 10]
    assert reconnecting.pause_after(LOST, 0) == pytest.approx(0.2)
