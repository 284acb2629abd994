"""Words for whoever looks: a store that is away, and one that cannot do what it is asked."""

from __future__ import annotations

from pymongo.errors import AutoReconnect, OperationFailure

from worker.desk.wording import why_not
from worker.mongo.errors import failure_of, store_error


def test_a_store_that_cannot_do_it_does_answer() -> None:
    refused = OperationFailure("$min is not implemented yet", 238, {"codeName": "NotImplemented"})
    error = store_error(failure_of(refused, holds_documents=False))
    assert why_not(error) == "it answers with an error (OperationFailure 238 NotImplemented)"


def test_a_store_that_is_away_does_not_answer() -> None:
    error = store_error(failure_of(AutoReconnect("connection closed"), holds_documents=False))
    assert why_not(error) == "it does not answer (AutoReconnect: connection closed)"
