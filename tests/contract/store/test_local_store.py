"""The sandbox's own promises about the servers it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.services.mongod import answers
from tests.services.store import StoreProcess, StoreStartError, embedded_store

if TYPE_CHECKING:
    from pathlib import Path


def test_a_server_that_cannot_start_says_so_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no space left')"]
    server = StoreProcess("a broken server", lambda _port: command, tmp_path)

    with pytest.raises(StoreStartError, match=r"a broken server did not start:\n.*no space left"):
        server.start()

    assert server.pid == 0


def test_a_stopped_server_is_gone_and_comes_back_at_the_same_address(tmp_path: Path) -> None:
    server = embedded_store(tmp_path)
    server.start()
    uri, first = server.uri, server.pid

    server.stop()
    assert not answers(uri)
    server.restart()

    assert server.uri == uri
    assert server.pid not in {0, first}
    assert answers(uri)
    server.stop()


def test_a_server_that_does_not_run_can_be_stopped_killed_frozen_and_thawed(tmp_path: Path) -> None:
    server = embedded_store(tmp_path)

    server.stop()
    server.kill()
    server.freeze()
    server.thaw()

    assert server.pid == 0
