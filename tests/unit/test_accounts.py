"""The account of the guarantee table: each way of losing or doubling a message is seen, and no other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.benchmarks.accounts import account, table

HEARD, UNHEARD = {"h-1", "h-2"}, {"u-1", "u-2"}
RIGHT: dict[str, Any] = {
    "events": ["h-1", "h-2"],
    "documents": ["u-1", "u-2"],
    "letters": set(),
    "queued": [],
}


def of(**changes: Any) -> dict[str, int]:
    one = account("somebody", heard=HEARD, unheard=UNHEARD, **{**RIGHT, **changes})
    figures = {name: value for name, value in dataclasses.asdict(one).items() if isinstance(value, int) and value}
    assert one.is_right == (not figures.keys() - {"messages", "events_again", "ended"})
    return figures


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({}, {}),
        ({"events": ["h-1"]}, {"lost": 1}),
        ({"documents": ["u-1"]}, {"lost": 1}),
        ({"documents": ["u-1"], "letters": {"u-2"}}, {"dead": 1}),
        ({"documents": ["u-1"], "queued": ["u-2"]}, {"left": 1}),
        ({"events": ["h-1"], "documents": ["u-1", "u-2", "h-2"]}, {"misplaced": 1}),
        ({"documents": ["u-1", "u-2", "u-2"]}, {"documents_twice": 1}),
        ({"events": ["h-1", "h-2", "h-2", "h-2"]}, {"events_again": 2}),
        ({"events": ["h-1", "h-1", "h-2", "h-2"], "sent_twice": {"h-1"}}, {"events_again": 1}),
        ({"sent_twice": {"h-1"}}, {}),
        ({"queued": ["h-1"]}, {}),  # done, and not acknowledged before it was stopped
        ({"ended": 2}, {"ended": 2}),
    ],
)
def test_what_became_of_a_message_is_counted_once(changes: dict[str, Any], figures: dict[str, int]) -> None:
    assert of(**changes) == {"messages": 4, **figures}


def test_the_table_has_a_cell_for_every_column() -> None:
    head, line, row = table([account("somebody", heard=HEARD, unheard=UNHEARD, **RIGHT)])
    assert head.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| somebody | 0 |")
