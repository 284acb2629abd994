"""The limit of the store: the same documents, ready made, in bundles of 200, and nothing else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

from tests.benchmarks.messages import Kind, places, prepare
from tests.benchmarks.rivals import handling
from worker.cim import CimMessage
from worker.pipeline.translate import translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.messages import Prepared

_BUNDLE = 200


def main() -> None:
    """Insert the documents of COUNT messages from number FIRST on (arguments) and print the seconds it took."""
    first, count, conversations = map(int, sys.argv[1:])
    documents = [_document(message.body) for message in _messages(first, count, conversations)]
    client: MongoClient[dict[str, Any]] = MongoClient(handling.MONGODB_URI)
    activities = client[handling.DATABASE].get_collection("ConversationActivities", write_concern=handling.MAJORITY)
    client.admin.command("ping")
    started = time.perf_counter()
    for start in range(0, count, _BUNDLE):
        activities.insert_many(documents[start : start + _BUNDLE], ordered=False)
    print(time.perf_counter() - started)


def _messages(first: int, count: int, conversations: int) -> Iterator[Prepared]:
    closed = places("closed", conversations)
    return prepare(first, count, [Kind.STORED], live=places("live", conversations), closed=closed)


def _document(body: bytes) -> dict[str, Any]:
    """Return the document of a message, without what the registry would add (the session and the room)."""
    message = handling.read(body)
    assert isinstance(message, CimMessage)
    return handling.stored(translate(message, None, now=0)).document


if __name__ == "__main__":
    main()
