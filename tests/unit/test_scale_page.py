"""deploy/scale.md: what it computes and what can be measured in a second is held against the code."""

from __future__ import annotations

import asyncio
import re
from importlib.util import find_spec

import pytest

from tests.benchmarks import exchanges, journal
from tests.documentation import ROOT
from worker.ops.metric_catalogue import METRICS
from worker.rabbit.topology import JournalBounds

PAGE = (ROOT / "deploy" / "scale.md").read_text()
JOURNAL = PAGE.partition("## The journal")[2].partition("\n## ")[0]
BYTES_EACH, BYTES_WITH_ZLIB = (
    int(re.search(text, JOURNAL)[1])  # type: ignore[index]
    for text in (r"takes (\d+) bytes", r"(\d+) where zlib")
)
ROWS = re.findall(r"^\| ([\d,]+) \| ([\d.]+) GB \| ([\d.]+) hours \|$", JOURNAL, re.MULTILINE)


def test_the_metrics_that_ask_for_a_step_exist() -> None:
    named = set(re.findall(r"\bcim_[a-z_]+", PAGE))
    assert named
    assert not named - {metric.name for metric in METRICS}


def test_an_outcome_takes_the_bytes_that_the_page_counts_with() -> None:
    outcomes = [(journal.identity(one.body), *journal.OUTCOMES[one.kind]) for one in journal.messages(400)]
    measured = asyncio.run(journal.written(outcomes, 200)) / len(outcomes)
    counted = BYTES_EACH if find_spec("isal") else BYTES_WITH_ZLIB
    assert measured == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(("rate", "gigabytes", "hours"), ROWS)
def test_a_days_history_and_how_long_the_journal_reaches_follow_from_that(
    rate: str, gigabytes: str, hours: str
) -> None:
    each_second = int(rate.replace(",", "")) * BYTES_EACH
    assert float(gigabytes) == pytest.approx(each_second * 86_400 / 1e9, rel=0.06)
    assert float(hours) == pytest.approx(JournalBounds().max_bytes / each_second / 3600, rel=0.03)


def test_the_table_of_conversations_has_the_marks_that_are_measured() -> None:
    table = PAGE.partition("<!-- exchanges -->")[2].partition("<!-- end of exchanges -->")[0]
    rows = [int(cell.replace(",", "")) for cell in re.findall(r"^\| ([\d,]+) \|", table, re.MULTILINE)]
    assert rows == [mark for mark in exchanges.MARKS if mark <= max(rows)]
    assert max(rows) == 100_000


def test_every_step_of_the_table_says_what_is_assumed_or_has_a_section_with_what_is_measured() -> None:
    for name in ("Processes", "Nodes", "Partitions", "Conversations", "The store", "The journal"):
        section = PAGE.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert "measured" in section.lower() or "assumed" in section


CAPACITY = (ROOT / "deploy" / "capacity.md").read_text()
RATES = {
    (kind, int(processes)): int(rate.replace(",", ""))
    for kind, processes, rate in re.findall(r"^\| (live|stored|mixed) \| (\d) \| ([\d,]+) \|", CAPACITY, re.MULTILINE)
}


def hundreds(*rates: int) -> list[str]:
    return [f"{round(rate, -2):,}" for rate in rates]


def test_what_one_and_two_processes_move_is_what_the_page_about_capacity_measured() -> None:
    live, stored, mixed = hundreds(RATES["live", 1], RATES["stored", 1], RATES["mixed", 1])
    assert f"One process moved {live} live, {stored} stored or {mixed} mixed messages" in PAGE
    assert f"stored: {stored} → {hundreds(RATES['stored', 2])[0]} a second" in PAGE
    assert f"live: {live} → {hundreds(RATES['live', 2])[0]}, the broker" in PAGE
