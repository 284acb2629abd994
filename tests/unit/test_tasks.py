"""Ending tasks for certain, and hearing of those that end by a bug."""

from __future__ import annotations

import asyncio

from tests.support.deliveries import RecordingReporter
from worker.flow.tasks import cancel_and_wait, keep_running


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if swallowed == 2:
                    raise
                swallowed += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)

    await asyncio.wait_for(cancel_and_wait([task]), 10)

    assert task.cancelled()
    assert swallowed == 2


async def test_tasks_that_have_ended_are_left_alone() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task

    await cancel_and_wait([task])

    assert not task.cancelled()


async def test_work_that_fails_as_nobody_foresaw_is_named_and_begins_again_until_it_is_done() -> None:
    reporter, tries = RecordingReporter(), iter([TypeError("of a message: secret"), ValueError("again"), None])

    async def job() -> None:
        error = next(tries)
        if error is not None:
            raise error

    await keep_running("count letters", job, reporter, pause_seconds=0)

    assert [(what, facts["task"]) for what, facts in reporter.warnings] == [
        ("background_work_failed", "count letters")
    ] * 2
    assert "TypeError" in str(reporter.warnings[0])
    assert "secret" not in str(reporter.warnings)
    assert next(tries, "ended") == "ended"
