"""What a server says of itself, which `doctor` looks at, is read from every one of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker.mongo.server import describe

if TYPE_CHECKING:
    from tests.contract.store.conftest import OpenStore


async def test_version_and_clock_are_read_whatever_the_server(open_store: OpenStore) -> None:
    async with open_store() as store:
        facts = await describe(store)
    assert facts.version >= (4,)
    assert facts.at is not None
    assert abs(facts.at - time.time() * 1000) < 60_000
