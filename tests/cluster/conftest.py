"""Three nodes for the tests of this folder; `python -m tests.cluster` runs them on each RabbitMQ that can be had."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.services.cluster import LocalCluster
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Store


@pytest.fixture(scope="session")
def _nodes(rabbitmq_root: Path | None) -> Iterator[LocalCluster]:
    with LocalCluster(chroot=rabbitmq_root) as cluster:
        yield cluster


@pytest.fixture
def cluster(_nodes: LocalCluster) -> LocalCluster:
    """Return three nodes that run, see each other and are open to clients; a test may do to them what it likes."""
    _nodes.start()
    return _nodes


@pytest.fixture
def vhost(cluster: LocalCluster) -> Iterator[str]:
    """Name of a virtual host that only this test knows."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.create_vhost(name)
    yield name
    cluster.start()
    cluster.delete_vhost(name)


@pytest.fixture
def world(cluster: LocalCluster, vhost: str, store: Store, database: str, tmp_path: Path) -> World:
    """Return a world whose own hands are on the first node."""
    return World(cluster.nodes[0].vhost_url(vhost), store.uri, database, tmp_path)
