"""The documents in `schemas/` are those of this version."""

from __future__ import annotations

import pytest

from tests.documentation import ROOT
from worker.schemas import DOCUMENTS, SCHEMAS, VERSION, Page, Published

FOLDER = ROOT / "schemas"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_every_document_is_current(document: Published | Page) -> None:
    assert (FOLDER / document.file).read_text(encoding="utf-8") == document.text(), "run: make schemas"


def test_no_other_document_lies_beside_them() -> None:
    others = {"README.md", "subscribing.md", "identity-vectors.json"}
    assert {file.name for file in FOLDER.iterdir() if file.is_file()} == {one.file for one in DOCUMENTS} | others


@pytest.mark.parametrize("document", SCHEMAS, ids=lambda one: one.name)
def test_every_schema_says_what_it_is_and_in_which_version(document: Published) -> None:
    schema = document.make()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:cim-worker:{VERSION}:{document.name}"
    assert schema["version"] == VERSION
    assert schema["title"]
    assert schema["description"].endswith(".")
