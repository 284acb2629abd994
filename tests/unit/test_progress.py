"""An outage of the broker is what it does not do, whatever its sockets say; and it is over once it does something."""

from __future__ import annotations

import asyncio
import dataclasses

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.codes import Code
from worker.failure import Failure
from worker.flow.outage import Outage
from worker.flow.tasks import cancel_and_wait
from worker.process.progress import Progress, ProgressWatch

DOWN = "broker broker_unavailable"
GONE = Failure.of(Code.BROKER_UNAVAILABLE)


class Watched:
    """A broker session whose progress the test decides, and what is reported of it."""

    def __init__(self, outage: Outage | None = None, reported: RecordingReporter | None = None) -> None:
        self.clock = FakeClock()
        self.reported = reported or RecordingReporter()
        self.outage = outage or Outage("broker", address="here", reporter=self.reported, clock=self.clock)
        self.now = Progress(is_waiting=False, settled=0, received=0, is_blocked=False)
        self.watch = ProgressWatch(self.outage, lambda: self.now, self.clock)

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.ms += 500
            self.watch.check()

    def changes(self, **numbers: int | bool) -> None:
        self.now = dataclasses.replace(self.now, **numbers)  # type: ignore[arg-type]

    def next_session(self) -> None:
        self.now = Progress(is_waiting=False, settled=0, received=self.now.received, is_blocked=False)
        self.watch = ProgressWatch(self.outage, lambda: self.now, self.clock)


def test_publishes_that_nobody_confirms_for_five_seconds_are_one_outage_until_one_is_confirmed() -> None:
    watched = Watched()
    watched.changes(is_waiting=True)
    watched.passes(4.5)
    assert not watched.reported.down
    watched.passes(20)
    assert watched.reported.down == [DOWN]
    assert watched.outage.reason == "connected, but nothing was confirmed or delivered for 5 s"
    watched.changes(settled=1)
    watched.passes(0.5)
    assert watched.reported.up == ["broker"]
    assert watched.outage.failure is None


def test_a_broker_that_confirms_or_delivers_now_and_then_is_slow_and_not_down() -> None:
    watched = Watched()
    for count in range(5):
        watched.changes(is_waiting=True, settled=count)
        watched.passes(4)
        watched.changes(received=count + 1)
        watched.passes(4)
    assert not watched.reported.down


def test_a_delivery_alone_does_not_end_a_silence() -> None:
    watched = Watched()
    watched.changes(is_waiting=True)
    watched.passes(6)
    watched.changes(received=1)
    watched.passes(1)
    assert watched.reported.down == [DOWN]
    assert not watched.reported.up


def test_nothing_in_hand_is_no_silence_and_a_broker_that_says_that_it_blocks_has_an_outage_of_its_own() -> None:
    watched = Watched()
    watched.passes(30)
    watched.changes(is_waiting=True, is_blocked=True)
    watched.passes(30)
    assert not watched.reported.down
    watched.changes(is_blocked=False)
    watched.passes(4.5)
    assert not watched.reported.down, "the five seconds begin when it takes publishes again"


def test_a_process_that_was_held_up_itself_does_not_blame_the_broker() -> None:
    watched = Watched()
    watched.changes(is_waiting=True)
    watched.clock.ms += 60_000
    watched.watch.check()
    assert not watched.reported.down


def test_a_lost_session_is_over_with_the_first_confirm_of_the_next_or_once_that_stood_idle_for_a_while() -> None:
    for first_confirm in (True, False):
        watched = Watched()
        watched.outage.began(GONE)
        watched.next_session()
        if first_confirm:
            watched.changes(is_waiting=True)
            watched.passes(4)
            assert not watched.reported.up, "an open session proves nothing"
            watched.changes(is_waiting=False, settled=1)
            watched.passes(0.5)
        else:
            watched.passes(2.5)
            assert not watched.reported.up
            watched.passes(0.5)
        assert watched.reported.up == ["broker"]


async def test_what_was_confirmed_right_before_a_session_was_lost_ended_the_outage_before_it() -> None:
    watched = Watched()
    watched.outage.began(GONE)
    watched.next_session()
    watching = asyncio.create_task(watched.watch.run())
    await asyncio.sleep(0)
    watched.changes(settled=1)
    await cancel_and_wait([watching])
    assert watched.reported.up == ["broker"]
    watched.outage.began(GONE)
    assert watched.reported.down == [DOWN, DOWN], "the next one is another outage"


def test_a_cluster_without_quorum_is_one_outage_through_all_sessions_that_it_lets_us_open() -> None:
    watched = Watched()
    watched.changes(is_waiting=True)
    watched.passes(30)
    watched.outage.began(GONE)
    for _ in range(3):
        watched.next_session()
        watched.passes(15)  # nothing comes, so there is nothing to publish
    assert watched.reported.down == [DOWN]
    assert not watched.reported.up
    watched.changes(settled=1)
    watched.passes(0.5)
    assert watched.reported.up == ["broker"]


def test_a_silence_whose_work_went_to_others_is_over_after_a_minute_without_anything_to_do() -> None:
    watched = Watched()
    watched.changes(is_waiting=True)
    watched.passes(6)
    watched.outage.began(GONE)
    watched.next_session()
    watched.passes(59)
    assert not watched.reported.up
    watched.passes(1)
    assert watched.reported.up == ["broker"]
