"""Ending tasks for certain."""

from __future__ import annotations

import asyncio

from worker.flow.tasks import cancel_and_wait


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
