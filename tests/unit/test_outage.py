"""One cause is one line when it begins, one a minute while it lasts, and one when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.codes import Code
from worker.failure import Failure
from worker.flow.outage import Outage

if TYPE_CHECKING:
    import pytest

GONE, REFUSED = Failure.of(Code.BROKER_UNAVAILABLE), Failure.of(Code.BROKER_ACCESS_REFUSED)


def test_it_is_said_once_when_it_begins_and_once_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reported, clock, lines = RecordingReporter(), FakeClock(), []
    outage = Outage("broker", address="here", reporter=reported, clock=clock)
    monkeypatch.setattr(reported, "dependency_down", lambda *_, outage_seconds, **__: lines.append(outage_seconds))

    for _ in range(150):  # fails once a second, for two and a half minutes, in two ways
        outage.began(GONE)
        outage.began(REFUSED, "in the broker's words")
        clock.ms += 1000
    assert outage.failure is REFUSED
    outage.ended()
    outage.ended()

    assert lines == [None, 0.0, 60.0, 120.0], "a fault that needs an operator is said as soon as it shows"
    assert reported.up == ["broker"]
    assert outage.failure is None


def test_nothing_is_said_when_nothing_was_wrong() -> None:
    reported = RecordingReporter()
    Outage("broker", address="here", reporter=reported, clock=FakeClock()).ended()
    assert not reported.up


def test_each_kind_of_work_has_its_part_and_the_dependency_is_up_when_all_of_them_work() -> None:
    reported, clock = RecordingReporter(), FakeClock()
    outage = Outage("broker", address="here", reporter=reported, clock=clock)
    blocked = outage.part("publish")

    outage.began(GONE)
    assert (blocked.failure, blocked.reason, blocked.seconds) == (None, "", 0.0)
    clock.ms += 3000
    blocked.began(REFUSED, "in the broker's words")
    clock.ms += 1000
    blocked.began(REFUSED, "in other words")
    assert (blocked.failure, blocked.reason, blocked.seconds) == (REFUSED, "in other words", 1.0)
    outage.ended()
    assert (outage.failure, outage.seconds, reported.up) == (REFUSED, 4.0, [])
    blocked.ended()
    assert (outage.failure, reported.up) == (None, ["broker"])
