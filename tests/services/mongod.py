"""Asks whether a MongoDB server, or what stands in for one, answers."""

from __future__ import annotations

import pymongo
from pymongo.errors import PyMongoError

_ANSWER_TIMEOUT_MS = 1000


def answers(uri: str) -> bool:
    """Tell whether a server answers a ping at `uri` within a second."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(
        uri, serverSelectionTimeoutMS=_ANSWER_TIMEOUT_MS
    )
    with client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        return True
