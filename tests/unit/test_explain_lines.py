"""What `cim-worker explain` prints when it has found nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.cli.explain import _print
from worker.desk.explain import Explanation

if TYPE_CHECKING:
    import pytest


def test_who_asks_for_an_unknown_id_is_told_where_amqp_message_ids_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    _print(Explanation("amqp-1", (), (), (), None, is_cut=False))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "amqp-1: nothing is known of it"
    assert last.endswith("is in the journal: --since looks further back.")
