"""What may reach a terminal: everything visible and spaces, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.output import print_json, print_table
from worker.ops.logging import configure_logging
from worker.ops.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

ESCAPE = "c\x1b[31m-\x9b2J\u202e1\n2026-01-01 [error] forged"


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    structlog.reset_defaults()


@given(st.text())
def test_no_control_character_gets_through_and_the_length_stays(text: str) -> None:
    shown = printable(text)

    assert len(shown) == len(text)
    assert all(one.isprintable() or one.isspace() for one in shown)
    assert not set(shown) & {"\n", "\r", "\t", "\x1b", "\x9b", "\u2028", "\u202e"}


@pytest.mark.parametrize("text", ["", "c-1", "Gespräch 対話", "narrow\u00a0space", "👩"])
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.usefixtures("_logging_restored")
def test_the_log_for_people_shows_an_id_on_one_line_without_its_codes(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "info")

    structlog.get_logger().info("conversation", conversation_id=ESCAPE, sessions=[ESCAPE])

    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}


@pytest.mark.usefixtures("_logging_restored")
def test_the_log_for_people_keeps_the_lines_of_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "info")

    try:
        int(ESCAPE)
    except ValueError:
        structlog.get_logger().exception("broken")

    shown = capsys.readouterr().err
    assert "\nTraceback (most recent call last):\n" in shown
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}


def test_a_table_in_a_pipe_has_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(None, ("id", "sessions"), [(ESCAPE, ["s\t1", "s-2"])])

    lines = capsys.readouterr().out.splitlines()
    assert [line.count("\t") for line in lines] == [1, 1]
    assert lines[1].endswith("\ts\ufffd1, s-2")


def test_json_escapes_what_a_terminal_obeys_and_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"id": ESCAPE, "name": "Gespräch \ud800"})

    shown = capsys.readouterr().out
    assert json.loads(shown) == {"id": ESCAPE, "name": "Gespräch \ud800"}
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
    assert "Gespräch" in shown
