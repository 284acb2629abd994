"""JSON in the pages for people is what the schemas say."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.documentation import DEPLOY, PAGES, ROOT
from tests.support.from_schema import Schema, schema_of
from worker.schemas import SCHEMAS

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]


def test_there_is_json_in_the_pages() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[str(page.relative_to(ROOT)) for page, _ in BLOCKS])
def test_a_block_of_json_is_valid_by_one_of_the_schemas(page: Path, block: str) -> None:
    document = json.loads(block)
    assert [one.name for one in SCHEMAS if Schema(one.make()).accepts(document)], f"{page}: {block}"


def test_the_operators_page_names_every_field_of_the_journal() -> None:
    sentence = re.search(r"A message of the journal is `(.*?)`", DEPLOY.read_text(), re.DOTALL)
    assert sentence
    journal = schema_of("journal").document
    fields = {*journal["properties"], *journal["$defs"]["JournalEntry"]["properties"]} - {"gap"}
    assert set(re.findall(r'"(\w+)"', sentence[1])) == fields
