"""What is compiled is of the sources beside it, and what is listed to be compiled is there."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_compiled_is_older_than_its_source() -> None:
    for built in (ROOT / "worker").rglob("*.so"):
        name = built.name.partition(".")[0]
        source = next(path for path in built.parent.glob(f"{name}.py*") if path.suffix in {".py", ".pyx"})
        assert built.stat().st_mtime >= source.stat().st_mtime, f"{source} has changed since: run `make native`"


def test_whatever_is_to_be_compiled_as_it_is_is_there() -> None:
    listed = (ROOT / "hatch_build.py").read_text().partition("for name in (")[2].partition(")")[0]
    names = [line.strip(' ",\n') for line in listed.splitlines() if line.strip()]
    assert names
    assert [name for name in names if not (ROOT / "worker" / f"{name}.py").exists()] == []
