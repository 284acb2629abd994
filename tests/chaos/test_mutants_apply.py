"""The deliberate bugs of the mutation check still find the places they are planted in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.mutants import MUTANTS, Mutant, patched
from tests.chaos.pool import snapshot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_bug_can_be_planted(mutant: Mutant, tmp_path: Path) -> None:
    """Each text to replace is in the source exactly once, and the result is Python."""
    assert patched(mutant, snapshot(tmp_path)) == tmp_path
