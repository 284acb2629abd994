"""What is said of pools, whatever stands in their documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from worker.desk.pools import FORGOTTEN_MS, age_of, read_pool

NOW = 1_760_000_000_000


def process(age_ms: int = 1000, **facts: Any) -> dict[str, Any]:
    return {"host": "h", "at": NOW - age_ms, "ready": True, "version": "1.0.0", **facts}


def test_a_pool_is_its_living_processes() -> None:
    sick = process(ready=False, reasons=["store: no answer"])
    entries = {"a": process(), "b": sick, "c": sick, "d": process(60_000), "e": process(10**7)}
    pool = read_pool({"_id": "eu", "processes": entries}, NOW)
    assert pool.in_words() == "pool eu: 3 processes, 1 ready, 1 silent, version 1.0.0"
    assert pool.attention() == [
        "pool eu: not ready: store: no answer",
        "pool eu: 1 silent for more than half a minute",
    ]


def test_a_pause_says_who_and_why_and_what_ends_it() -> None:
    document = {"_id": "*", "paused": True, "pausedBy": "anna", "reason": "store maintenance", "pausedAt": NOW}
    pool = read_pool(document, NOW)
    assert pool.in_words() == "all pools: paused by anna (store maintenance)"
    assert pool.attention() == ["all pools paused by anna (store maintenance); go on with `cim-worker resume --all`"]
    one = read_pool({**document, "_id": "eu west"}, NOW)
    assert one.attention()[0].endswith("; go on with `cim-worker resume --pool 'eu west'`")


def test_strange_documents_are_no_error() -> None:
    for document in ({}, {"_id": 7, "processes": [1]}, {"_id": "x", "processes": {"a": 5, "b": {"at": "now"}}}):
        assert read_pool(document, NOW).processes == 0


def test_an_entry_that_does_not_say_when_is_one_to_forget() -> None:
    for strange in ({}, {"at": None}, {"at": "now"}, {"at": datetime.now(UTC)}):
        assert age_of(strange, NOW) > FORGOTTEN_MS
