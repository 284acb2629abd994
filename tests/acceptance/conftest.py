"""Fixtures of the acceptance tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pymongo
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

    from tests.services.services import Store


@pytest.fixture
def documents(store: Store, database: str) -> Iterator[Database[dict[str, object]]]:
    """A database of this test's own, to look into."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(store.uri)
    with client:
        yield client[database]
