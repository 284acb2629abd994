"""Databases that are gone when the block ends."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymongo

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def dropped_afterwards(uri: str, name: str) -> Iterator[str]:
    """Yield *name*; drop the database of that name on the server at *uri* at the end, whatever happened."""
    try:
        yield name
    finally:
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(uri, timeoutMS=10_000)
        with client:
            client.drop_database(name)
