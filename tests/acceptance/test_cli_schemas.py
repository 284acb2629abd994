"""`cim-worker schemas` gives the documents of the contract, wherever it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode
from worker.schemas import DOCUMENTS, VERSION

FOLDER = Path(__file__).parents[2] / "schemas"


def test_the_list_names_every_document() -> None:
    listed = printed_json(cim_worker("schemas", "--json"))
    table = cim_worker("schemas").stdout.splitlines()

    assert listed["version"] == VERSION
    assert [one["name"] for one in listed["documents"]] == [one.name for one in DOCUMENTS]
    assert table == ["name\tfile\tabout", *(f"{one.name}\t{one.file}\t{one.about}" for one in DOCUMENTS)]


def test_everything_is_written_into_a_folder(tmp_path: Path) -> None:
    written = cim_worker("schemas", "--output", str(tmp_path / "new" / "folder"))

    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert written.returncode == ExitCode.OK
    assert sorted(written.stdout.split()) == [str(file) for file in files]
    assert {file.name: file.read_text() for file in files} == {
        one.file: (FOLDER / one.file).read_text() for one in DOCUMENTS
    }


@pytest.mark.parametrize("name", ["message", "message.schema.json"])
def test_one_is_printed_by_name_or_file(name: str) -> None:
    assert json.loads(cim_worker("schemas", name).stdout) == json.loads((FOLDER / "message.schema.json").read_text())


def test_an_unknown_name_is_not_found_and_the_known_ones_are_named() -> None:
    found = cim_worker("schemas", "mesage")

    assert found.returncode == ExitCode.NOT_FOUND
    assert "there is no document mesage; there are: message, event," in found.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = cim_worker("schemas", "--output", str(tmp_path / "file"))

    assert failed.returncode == ExitCode.CONFIGURATION
    assert f"cannot write to {tmp_path / 'file'}" in failed.stderr
