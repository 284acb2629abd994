"""The pages for developers: every link, file, command and make target they name exists."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.documentation import PAGES, ROOT, command_names

if TYPE_CHECKING:
    from pathlib import Path

MAKE_TARGETS = frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_FILE = re.compile(r"`(?!\.cache/)((?:\.?[\w-]+/)+(?:[\w.-]+\.(?:py|md|toml|yaml|json|sh))?)`")
"""A file or folder with its path; .cache is made by tools."""


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text())

    assert [link for link in links if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    places = (ROOT, page.parent, ROOT / "worker")

    assert [name for name in _FILE.findall(page.read_text()) if not any((at / name).exists() for at in places)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?:`|^|\n)make ([a-z-]+)", page.read_text())

    assert set(named) - MAKE_TARGETS == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_are_named_exist(page: Path) -> None:
    groups = {name.split()[0] for name in command_names() if " " in name}
    known = {*groups, *command_names(), *(" ".join(name.split()[:2]) for name in command_names())}
    named = re.findall(r"(?:`|^|\n|\$ )cim-worker ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", page.read_text())

    assert [name for name in named if name not in known and name.split()[0] not in known - groups] == []


def test_continuous_integration_runs_the_checks_and_then_test_and_fails_if_any_does(tmp_path: Path) -> None:
    for failing, expected in (("none", 0), ("check", 3), ("check-native", 3), ("test", 3)):
        finished = ci_run(tmp_path / failing, failing)

        assert finished.stdout.splitlines() == ["check", "check-native", "test"]
        assert finished.returncode == expected


def test_pre_commit_runs_the_same_checks() -> None:
    assert re.search(r"^ +entry: make check$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)


def ci_run(folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/run` with a `make` that only says what it was asked for, and fails at *failing*."""
    (folder / ".ci").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    make = folder / "bin" / "make"
    make.write_text(f'#!/bin/sh\necho "$1"\n[ "$1" != {failing} ] || exit 3\n')
    make.chmod(0o755)
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", ".ci/run"], cwd=folder, env={"PATH": path}, capture_output=True, text=True, check=False
    )


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not heading or heading in headings(file))


def headings(file: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of *file*."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
