"""The short form: every fault at least once, on real processes, a fixed seed."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from typing import TYPE_CHECKING

import pytest

from tests.chaos.__main__ import print_report
from tests.chaos.fault import FAULTS
from tests.chaos.run import Plan, run

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_SECONDS = 420.0
"""Longer than the faults, the wait for quiet and the broker's own look after its dead-lettered messages (180 s)."""


@pytest.mark.slow
@pytest.mark.alone  # it judges what live messages feel
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # broken connections are abandoned by the harness, not closed
def test_no_message_is_lost_or_wrongly_dead_whatever_fails(tmp_path: Path) -> None:
    """Every invariant holds after every fault; the examples of a violation are in the report."""
    # pytest's own alarm for tests that hang rings earlier than this one may end on a busy machine.
    faulthandler.dump_traceback_later(_LONGEST_SECONDS, exit=True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    plan = Plan(
        seed=20_261_122,
        minutes=1.5,
        messages=12_000,
        every=1.5,
        at_once=3,
        feel=("disk_full", "slow_store", "store_stop", "subscriber_full"),
        keep=tmp_path / "logs",
    )
    report = asyncio.run(run(plan, print, lambda _world, _state: None))
    print_report(report)
    assert not report.violations, report.examples
    assert set(report.faults) == set(FAULTS)
    assert report.published >= report.messages >= plan.messages
