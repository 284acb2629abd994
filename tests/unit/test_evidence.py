"""Whose fault a failed write is, by what became of its neighbours."""

from __future__ import annotations

import pytest

from worker.codes import Code, FailureClass
from worker.mongo.errors import failure_of_write_error
from worker.mongo.evidence import Inserted, InsertResult, against_the_store, is_own

NEW, TAKEN = Inserted.NEW, Inserted.KEY_TAKEN
OWN = failure_of_write_error(121)
STORES = failure_of_write_error(10107)
FORBIDDEN = failure_of_write_error(13)
UNLISTED = failure_of_write_error(365)
OTHER_UNLISTED = failure_of_write_error(133)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], None),
        ([NEW, TAKEN], None),
        ([OWN], None),
        ([OWN, OWN, OWN], None),
        ([UNLISTED], None),
        ([UNLISTED, OWN], None),
        ([UNLISTED, TAKEN], None),
        ([UNLISTED, NEW], None),
        ([UNLISTED, UNLISTED, NEW], None),
        ([STORES, NEW], None),
        ([UNLISTED, UNLISTED], Code.STORE_UNAVAILABLE),
        ([UNLISTED, OTHER_UNLISTED], Code.STORE_UNAVAILABLE),
        ([UNLISTED, OWN, UNLISTED], Code.STORE_UNAVAILABLE),
        ([TAKEN, UNLISTED, UNLISTED], Code.STORE_UNAVAILABLE),
        ([STORES], Code.STORE_UNAVAILABLE),
        ([TAKEN, STORES, OWN], Code.STORE_UNAVAILABLE),
        ([UNLISTED, FORBIDDEN], Code.STORE_ACCESS_REFUSED),
    ],
)
def test_the_store_is_at_fault_when_nothing_new_was_stored_and_the_failures_say_so(
    results: list[InsertResult], code: Code | None
) -> None:
    failure = against_the_store(results)

    assert (failure and failure.code) == code


def test_what_proves_the_store_sick_says_which_number_it_was_and_groups_with_it() -> None:
    failure = against_the_store([UNLISTED, UNLISTED])

    assert failure is not None
    assert failure.failure_class is FailureClass.OUTAGE
    assert "365" in failure.detail
    assert failure.fingerprint == UNLISTED.fingerprint


def test_only_a_listed_reason_is_the_documents_own() -> None:
    assert is_own(OWN)
    assert not is_own(UNLISTED)
    assert not is_own(STORES)
