"""Each promise of the desk can still be broken where it is kept, and the test that has to notice is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.promises.promises import PROMISES, Promise, plant

_TREE = Path(__file__).parents[2]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda one: one.says)
def test_the_promise_can_be_broken(promise: Promise, tmp_path: Path) -> None:
    copy = tmp_path / "worker" / promise.file
    copy.parent.mkdir(parents=True)
    shutil.copy(_TREE / "worker" / promise.file, copy)
    plant(promise, tmp_path)
    for test in promise.shown_by.split():
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (_TREE / file).read_text()
