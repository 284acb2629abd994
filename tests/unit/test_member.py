"""What is said of a process that says nothing."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from worker.ops.checks import Check
from worker.process.member import Member


@pytest.mark.parametrize(
    ("silent_seconds", "has_reported", "said"),
    [
        (0, False, "process 0 is starting"),
        (7, False, "process 0 is starting, for 7 s now"),
        (0, True, None),
        (7, True, "process 0 has not reported for 7 s"),
    ],
)
def test_a_process_that_never_reported_is_starting_and_one_that_did_is_silent(
    *, silent_seconds: float, has_reported: bool, said: str | None
) -> None:
    member = Member(0)
    assert member.check() == "process 0 is being started"
    member.process = multiprocessing.get_context("spawn").Process()  # it need not run
    member.heard_at = time.monotonic() - silent_seconds
    member.checks = [Check("broker")] if has_reported else []
    assert member.check() == said
