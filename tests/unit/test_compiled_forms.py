"""What is compiled is of the sources beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_compiled_is_older_than_its_source() -> None:
    for built in (ROOT / "worker").rglob("*.so"):
        source = built.parent / f"{built.name.partition('.')[0]}.pyx"
        assert source.exists(), f"{built} is of no source: run `make native`"
        assert built.stat().st_mtime >= source.stat().st_mtime, f"{source} has changed since: run `make native`"
