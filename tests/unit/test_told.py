"""What `publish --wait` counts of the receipts that come back."""

from __future__ import annotations

import json

from worker.cli.told import Told


def receipt(outcome: str, reason: str | None = None) -> bytes:
    return json.dumps({"outcome": outcome, "reason": reason, "code": None}).encode()


def test_receipts_are_counted_by_outcome_and_reason_and_those_that_are_missing_last() -> None:
    told = Told()
    told.ask(4)
    told.add("1", receipt("stored", "closed"))
    told.add("2", receipt("published"))
    told.add("3", receipt("published"))
    told.add("3", receipt("published"))
    assert told.rows() == [("published", "", 2), ("stored", "closed", 1), ("no receipt", "", 1)]


def test_what_the_broker_never_confirmed_may_have_a_receipt_all_the_same() -> None:
    told = Told()
    told.ask(1)
    for number in range(3):
        told.add(str(number), receipt("published"))
    assert told.rows() == [("published", "", 3)]
    assert told.problem() is None


def test_where_nothing_was_confirmed_there_is_nothing_to_tell() -> None:
    assert Told().rows() == []
