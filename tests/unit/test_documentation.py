"""The documentation says what the code does: tables are current, and nothing that can be used is missing."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.documentation import (
    DEPLOY,
    README,
    ROOT,
    SCHEMAS,
    SNIPPET_PAGES,
    SUBSCRIBING,
    TABLES,
    command_names,
    snippet,
    written,
)
from worker import contract
from worker.cim.bodies import BODY_MODELS
from worker.cli.exit_codes import ExitCode
from worker.codes import Code
from worker.mongo import activities, dead_letters, registry
from worker.outcome import Outcome
from worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("file", TABLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_generated_tables_are_current(file: Path) -> None:
    assert file.read_text() == written(file), "run: python -m tests.documentation"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row_in_the_readme(name: str) -> None:
    assert f"| `CIM_{name.upper()}` |" in README.read_text()


def test_every_command_has_a_row_in_the_readme() -> None:
    commands = command_names()

    assert len(commands) > 10
    assert [name for name in commands if f"`cim-worker {name}" not in README.read_text()] == []


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_explained_in_the_readme(code: ExitCode) -> None:
    assert f"| {code.value} | {code.meaning} |" in README.read_text()


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_row_in_the_readme(outcome: Outcome) -> None:
    assert f"| {outcome.value.replace('_', ' ')} |" in README.read_text()


def test_every_row_of_rights_is_tried_with_what_it_is_meant_for() -> None:
    rows = set(re.findall(r"^\| ([^|]+) \| `\^", DEPLOY.read_text(), re.MULTILINE))
    tests = "".join(file.read_text() for file in sorted((ROOT / "tests" / "acceptance").glob("*.py")))
    pages = "".join(file.read_text() for file in SNIPPET_PAGES)
    tried = {*re.findall(r'(?:url_of|rights)\("([^"]+)"', tests), *re.findall(r"<!-- snippet: \w+ as (.+) -->", pages)}
    assert len(rows) > 10
    assert rows - tried == set()


@pytest.mark.parametrize("header", contract.LETTER_HEADERS)
def test_every_header_of_a_dead_letter_is_explained(header: str) -> None:
    assert f"`{header}`" in SCHEMAS.read_text()


@pytest.mark.parametrize("code", Code)
def test_every_reason_code_is_explained(code: Code) -> None:
    assert f"| `{code.value}` | {code.spec.failure_class.value} |" in SCHEMAS.read_text()


def test_every_body_type_with_required_fields_is_explained_to_publishers() -> None:
    required = [
        name
        for name, model in BODY_MODELS.items()
        if any(field.is_required() for key, field in model.model_fields.items() if key != "type")
    ]

    assert len(required) > 5
    assert [name for name in required if f"`{name}`" not in SCHEMAS.read_text()] == []


@pytest.mark.parametrize(
    "name",
    [
        *(contract.INGRESS, contract.WAITING, contract.HUB, contract.CONVERSATION_EVENTS),
        *(contract.DEAD_LETTERS, contract.PARKED),
        *(contract.retry_queue("<delay>"), contract.conversation_exchange("<id>")),
        *(activities.COLLECTION, registry.COLLECTION, dead_letters.COLLECTION),
    ],
)
def test_everything_on_the_broker_and_in_the_store_is_explained_to_operators(name: str) -> None:
    assert f"| `{name}` |" in DEPLOY.read_text()


@pytest.mark.parametrize("name", ["publish", "subscribe"])
def test_the_code_of_the_readme_is_python(name: str) -> None:
    ast.parse(snippet(name).code)


@pytest.mark.parametrize("file", [README, DEPLOY, SCHEMAS, SUBSCRIBING], ids=lambda file: str(file.relative_to(ROOT)))
def test_code_is_run_by_a_test_or_says_why_not(file: Path) -> None:
    blocks = re.findall(r"^(.*)\n```(?:sh|python)\n", file.read_text(), re.MULTILINE)

    assert [line for line in blocks if not re.fullmatch(r"<!-- (snippet|not run): .+ -->", line)] == []
