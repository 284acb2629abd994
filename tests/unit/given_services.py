"""The test inside the run that `test_given_services.py` starts; nothing else collects this file."""

from __future__ import annotations

from pathlib import Path


def test_the_root_is_the_one_given(rabbitmq_root: Path | None) -> None:
    assert rabbitmq_root == Path("/given")
