"""The turns of the tests: beside each other, except who has to be alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.turns import Turns

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def said() -> list[str]:
    return []


def someone(folder: Path, said: list[str], name: str, *, alone: bool) -> tuple[threading.Thread, threading.Event]:
    """Take a turn in a thread and keep it until the event is set."""
    leave = threading.Event()

    def stay() -> None:
        with Turns(folder).take(alone=alone):
            said.append(name)
            leave.wait(30)
        said.append(f"{name} left")

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    return thread, leave


def test_tests_that_need_not_be_alone_go_on_together(tmp_path: Path, said: list[str]) -> None:
    one, one_leaves = someone(tmp_path, said, "one", alone=False)
    two, two_leaves = someone(tmp_path, said, "two", alone=False)
    eventually(lambda: sorted(said) == ["one", "two"])
    for leave, thread in ((one_leaves, one), (two_leaves, two)):
        leave.set()
        thread.join(30)


def test_who_has_to_be_alone_waits_for_the_others_and_keeps_new_ones_waiting(tmp_path: Path, said: list[str]) -> None:
    one, one_leaves = someone(tmp_path, said, "one", alone=False)
    eventually(lambda: said == ["one"])
    alone, alone_leaves = someone(tmp_path, said, "alone", alone=True)
    alone.join(0.2)
    assert said == ["one"]
    two, two_leaves = someone(tmp_path, said, "two", alone=False)
    two.join(0.2)
    assert said == ["one"]
    one_leaves.set()
    eventually(lambda: "alone" in said and "one left" in said)
    assert "two" not in said
    alone_leaves.set()
    eventually(lambda: "two" in said)
    two_leaves.set()
    for thread in (one, alone, two):
        thread.join(30)
