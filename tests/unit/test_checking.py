"""When a broker session is checked before it takes deliveries, and when it begins at once."""

from __future__ import annotations

import pytest

from tests.support.deliveries import FakeClock
from worker.process.checking import Checking
from worker.rabbit.errors import (
    AccessRefused,
    BrokerError,
    BrokerUnreachable,
    ChannelClosed,
    ConnectionLost,
    NodeSilent,
    TopologyMismatch,
)

LOST = ConnectionLost("the connection was cut")


def checked() -> tuple[Checking, FakeClock]:
    clock = FakeClock()
    checking = Checking(clock)
    assert checking.is_due_first, "nothing is known of the broker"
    checking.passed()
    return checking, clock


@pytest.mark.parametrize("error", [LOST, NodeSilent("127.0.0.1:5672")])
def test_after_the_loss_of_one_that_had_been_checked_the_next_begins_at_once_for_five_seconds(
    error: BrokerError,
) -> None:
    checking, clock = checked()
    checking.ended(error)
    assert not checking.is_due_first
    checking.ended(BrokerUnreachable("refused"))
    assert not checking.is_due_first, "an attempt that reached nobody says nothing"
    clock.ms += 5000
    assert checking.is_due_first, "by now it may be another broker"


@pytest.mark.parametrize(
    "error", [AccessRefused("no"), TopologyMismatch("missing: queue cim.ingress"), ChannelClosed(404, "no queue")]
)
def test_what_the_broker_refuses_is_looked_at_first_next_time(error: BrokerError) -> None:
    checking, _ = checked()
    checking.ended(LOST)
    checking.ended(error)
    assert checking.is_due_first


def test_one_that_was_lost_before_its_checks_had_passed_vouches_for_nothing() -> None:
    checking, clock = checked()
    checking.ended(LOST)
    clock.ms += 4000
    checking.ended(LOST)
    clock.ms += 2000
    assert checking.is_due_first


def test_a_consumer_that_the_broker_cancelled_has_the_next_one_checked_first() -> None:
    checking, _ = checked()
    checking.missed()
    checking.ended(LOST)
    assert checking.is_due_first
