"""What people see of tables and counts: nothing cut, what is left out is named, the largest first."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from worker.cli.dead_letters.jobs import facts
from worker.cli.dead_letters.planning import print_plan
from worker.cli.output import print_table
from worker.cli.status import _outcomes
from worker.desk.filter import parse_filter
from worker.desk.plan import Plan, Prediction
from worker.desk.recent import Kind, Summary

if TYPE_CHECKING:
    import pytest

    from worker.desk.status import Report

COLUMNS = ("cause", "code", "senders", "first", "expected")
ROW = ("83fe", "invalid_timestamp", "7c9a0f5e-0005-4a4a-8b8b-2d2d2d2d2d2d", "just now", "A time in milliseconds.")
SPARE = ("senders", "expected", "first")


def be_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    be_terminal(monkeypatch, columns)
    print_table(None, COLUMNS, [ROW], spare=SPARE)
    return capsys.readouterr().out.splitlines()


def test_a_narrow_terminal_keeps_one_row_per_line_and_says_which_columns_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, narrow, tiny = (shown(capsys, monkeypatch, width) for width in (160, 50, 20))

    assert all(word in wide[3] for word in ROW)
    assert "83fe" in narrow[3]
    assert "invalid_timestamp" in narrow[3]
    assert narrow[-1] == "a wider terminal or --json shows also: senders, expected"
    assert {len(narrow[0]), len(narrow[3])} == {40}
    assert tiny[0] == "cause:    83fe"
    assert "senders:  7c9a0f5e-0005-4a4a-8b8b-2d2d2d2d2d2d" in tiny


def test_no_name_is_cut_in_a_table_that_just_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_terminal(monkeypatch, 80)
    row = ("1aed", "3", "integer_out_of_range", "/header/sender/type", "24 min 24 s ago", "NEW, 3 this hour")
    print_table(None, ("cause", "letters", "code", "where", "last", "trend"), [row])

    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in (lines[0], *lines[3:])} == {80}
    assert all(lines[3].count(word) == 1 for word in row[:4])
    assert [word for line in lines[3:-1] for word in line.split("│")[6].split()] == ["NEW,", "3", "this", "hour"]


def test_a_column_that_fits_beside_the_others_is_not_left_out_for_one_that_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_terminal(monkeypatch, 40)
    print_table(None, ("id", "small", "large"), [("a" * 20, "s", "b" * 30)], spare=("small", "large"))

    assert capsys.readouterr().out.splitlines()[-1] == "a wider terminal or --json shows also: large"


def test_a_plan_says_how_many_letters_fail_for_causes_that_it_does_not_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures: Counter[tuple[str, str, str]] = Counter(
        {(Prediction.SAME, f"code_{number}", "/a"): 10 - number for number in range(8)}
    )
    failures[(Prediction.NEW, "missing_body", "")] = 1
    plan = Plan(letters=53, predictions=Counter({Prediction.SAME: 52, Prediction.NEW: 1}), failures=failures)
    print_plan(plan, parse_filter({}, now=0), as_json=False)

    _, same, new = capsys.readouterr().out.splitlines()
    assert same.endswith("6 code_4 at /a, 12 of 3 other causes (--json)")
    assert new.endswith(": 1 missing_body at the whole message")


def test_outcomes_have_their_codes_beneath_them_the_most_frequent_first() -> None:
    kinds = Counter(
        {
            Kind("duplicate", None, None): 3,
            Kind("dead", None, "missing_body"): 2,
            Kind("dead", None, "wrong_type"): 5,
            Kind("retry", None, "store_rejected"): 1,
        }
    )
    lines = _outcomes(cast("Report", SimpleNamespace(outcomes=Summary(60_000, kinds, None, None))))

    assert lines == [
        "7 dead",
        "  5 wrong_type",
        "  2 missing_body",
        "3 duplicate",
        "1 retry",
        "  1 store_rejected",
        "0.2 a second",
    ]


def test_a_job_is_told_in_words() -> None:
    kept = {"id": "f50c0353", "counts": {"sent": 3}, "outcomes": {"settled": 2, "died_again": 1}, "as": "", "chunks": 1}
    told = facts({**kept, "words": ["--group=cd23"], "process": "vm:1", "keepOrder": 1, "force": 0, "endedAt": None})

    assert told == [
        ("id", "f50c0353"),
        ("counts", "3 sent"),
        ("outcomes", "2 settled, 1 died_again"),
        ("keepOrder", "yes"),
    ]
