"""Fixtures of the acceptance tests."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pymongo
import pytest

from tests.documentation import rights
from tests.support.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Broker, Store


@pytest.fixture
def documents(store: Store, database: str) -> Iterator[Database[dict[str, object]]]:
    """A database of this test's own, to look into."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(store.uri)
    with client:
        yield client[database]


@pytest.fixture
def url_with_rights(broker: Broker, vhost_url: str) -> Iterator[Callable[..., str]]:
    """Give a new broker user the rights `configure`, `write` and `read`, and return the URL to connect with."""
    vhost = urlsplit(vhost_url).path[1:]
    made: list[str] = []

    def make(**rights: str) -> str:
        name, password = f"test-{secrets.token_hex(6)}", secrets.token_hex(6)
        broker.management.create_user(name, password)
        made.append(name)
        broker.management.set_permissions(name, vhost, **rights)
        parts = urlsplit(vhost_url)
        return parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl()

    yield make
    for name in made:
        broker.management.request("DELETE", f"/users/{quote(name)}", missing_is_fine=True)


@pytest.fixture
def url_of(url_with_rights: Callable[..., str]) -> Callable[[str], str]:
    """Give a new broker user the rights that deploy/README.md documents for it, and return the URL to connect with."""
    return lambda user: url_with_rights(**rights(user))


@pytest.fixture
def reader(url_of: Callable[[str], str], vhost_url: str, store: Store, database: str, tmp_path: Path) -> Reader:
    """Return somebody who copies code from the documentation; code of the `administrator` runs as the broker's own."""
    return Reader(lambda user: vhost_url if user == "administrator" else url_of(user), store, database, tmp_path)
