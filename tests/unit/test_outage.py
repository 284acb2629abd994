"""One cause is one line when it begins, one a minute while it lasts, and one when it ends."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from tests.support.eventually import eventually_async
from worker.codes import Code
from worker.failure import Failure
from worker.flow import outage as module
from worker.flow.outage import Outage

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


async def test_a_dependency_that_comes_and_goes_is_one_outage_whose_end_is_said_when_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_STEADY_SECONDS", 0.2)
    reported, clock, lines = RecordingReporter(), FakeClock(), []
    outage = Outage("store", address="here", reporter=reported, clock=clock)
    monkeypatch.setattr(reported, "dependency_down", lambda *_, outage_seconds, **__: lines.append(outage_seconds))
    monkeypatch.setattr(reported, "dependency_up", lambda *facts: lines.append(facts))

    for _ in range(61):  # an outage of a second, after each of which it works for a moment
        outage.began(GONE)
        clock.ms += 1000
        outage.ended()
        assert outage.failure is None
        clock.ms += 100
    assert lines == [None, ("store", 1.0, 1), None, pytest.approx(60.5)], "and again, then once a minute"
    await asyncio.sleep(0.1)
    assert len(lines) == 4, "it may go again"
    await eventually_async(lambda: len(lines) == 5)
    assert lines[4] == ("store", pytest.approx(65.9), 60)

    clock.ms += 1000
    outage.began(GONE)
    outage.ended()
    assert lines[5:] == [None, ("store", 0.0, 1)], "what was up is said to be up at once"


async def test_an_end_that_is_not_said_yet_is_not_said_while_something_else_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_STEADY_SECONDS", 0.1)
    reported, clock = RecordingReporter(), FakeClock()
    outage = Outage("store", address="here", reporter=reported, clock=clock)
    for _ in range(2):
        outage.began(GONE, work="writes")
        outage.ended(work="writes")
    outage.began(REFUSED, work="lookups")
    await asyncio.sleep(0.3)
    assert (len(reported.down), len(reported.up)) == (2, 1)
    outage.ended(work="lookups")
    await eventually_async(lambda: len(reported.up) == 2)
