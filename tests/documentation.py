"""Writes what is generated of the documentation: `python -m tests.documentation`. A test sees that it was done.

The tables of the pages, and the documents in `schemas/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from worker.cli.application import app
from worker.cli.exit_codes import ExitCode
from worker.cli.settings import markdown as settings_table
from worker.codes import Code, WarningCode
from worker.mongo import indexes
from worker.ops.event_catalogue import EVENTS
from worker.ops.metric_catalogue import GATEWAY_METRICS, METRICS
from worker.schemas import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SCHEMAS = ROOT / "schemas" / "README.md"
SUBSCRIBING = ROOT / "schemas" / "subscribing.md"
DEPLOY = ROOT / "deploy" / "README.md"
SNIPPET_PAGES = (README, SCHEMAS, SUBSCRIBING)
"""Pages whose code tests run."""
PAGES = (
    *(README, SCHEMAS, SUBSCRIBING, DEPLOY, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
    *(DEPLOY.parent / name for name in ("capacity.md", "desk.md", "gateway.md", "runbook.md", "scale.md")),
    *sorted((ROOT / "deploy").glob("*/README.md")),
    *(ROOT / "worker" / "README.md", *sorted((ROOT / "tests").glob("**/README.md"))),
)
"""Every page that people read."""


def written(file: Path) -> str:
    """Return the text of *file* as it has to be."""
    text = file.read_text()
    for name, table in TABLES[file].items():
        begin, end = f"<!-- {name}: written by python -m tests.documentation -->\n", f"<!-- end of {name} -->"
        block = re.search(f"(?<={re.escape(begin)}).*?(?={end})", text, re.DOTALL)
        assert block, f"{file} has no place for {name}"
        text = text[: block.start()] + table() + text[block.end() :]
    return text


@dataclass(frozen=True)
class Snippet:
    """Code of a page that a test runs."""

    code: str
    user: str | None
    """The broker user of deploy/README.md it runs as."""


def snippet(name: str) -> Snippet:
    """Return the code that follows `<!-- snippet: NAME as USER -->`; a snippet that needs no broker names no user."""
    pages = "\n".join(page.read_text() for page in SNIPPET_PAGES)
    found = re.search(rf"<!-- snippet: {name}(?: as (.+?))? -->\n```\w+\n(.*?)```", pages, re.DOTALL)
    assert found, f"no page has a snippet {name}"
    return Snippet(found[2], found[1])


def snippet_names(*pages: Path) -> list[str]:
    """Return the names of all snippets of *pages*."""
    return [name for page in pages for name in re.findall(r"<!-- snippet: (\w+)", page.read_text())]


def rights(user: str) -> dict[str, str]:
    """Return the rights of a broker user as the table in deploy/README.md gives them."""
    row = re.search(rf"^\| {re.escape(user)} \| `(.*?)` \| `(.*?)` \| `(.*?)` \|$", DEPLOY.read_text(), re.MULTILINE)
    assert row, f"deploy/README.md has no rights of {user}"
    return dict(zip(("configure", "write", "read"), (cell.replace("\\|", "|") for cell in row.groups()), strict=True))


def command_names() -> list[str]:
    """Return every command with its group, such as `topology apply`."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[str]:
        children = getattr(command, "commands", None)
        if children is None:
            yield " ".join(path)
            return
        for name, child in children.items():
            yield from walk(child, (*path, name))

    return list(walk(typer.main.get_command(app), ()))


def exit_code_table() -> str:
    """Return the table of exit codes."""
    rows = "".join(f"| {code.value} | {code.meaning} |\n" for code in ExitCode)
    return "| Exit code | Means |\n|---|---|\n" + rows


def code_table() -> str:
    """Return the catalogue of reason codes."""
    lines = ["| Code | Class | Stage | What was expected, or what happened | What to do |", "|---|---|---|---|---|"]
    for code in Code:
        spec = code.spec
        lines.append(
            f"| `{code.value}` | {spec.failure_class.value} | {spec.stage.value} | {spec.meaning} | {spec.fix} |"
        )
    return "\n".join(lines) + "\n"


def event_table() -> str:
    """Return the catalogue of log events."""
    lines = ["| Event | Level | When | Fields |", "|---|---|---|---|"]
    for row in EVENTS:
        fields = ", ".join(f"`{field}`" for field in row.fields)
        lines.append(f"| `{row.name}` | {row.level} | {row.when} | {fields} |")
    return "\n".join(lines) + "\n"


def metric_table() -> str:
    """Return the catalogue of metrics."""
    lines = ["| Metric | Kind | Labels | Unit | What it is |", "|---|---|---|---|---|"]
    for row in (*METRICS, *GATEWAY_METRICS):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.unit} | {row.meaning} |")
    return "\n".join(lines) + "\n"


def document_table() -> str:
    """Return the list of the documents in `schemas/`."""
    rows = "".join(f"| [{one.file}]({one.file}) | {one.about} |\n" for one in DOCUMENTS)
    return "| File | What it describes |\n|---|---|\n" + rows


def warning_table() -> str:
    """Return the catalogue of warnings."""
    return "| Warning | Means |\n|---|---|\n" + "".join(f"| `{one.value}` | {one.meaning} |\n" for one in WarningCode)


def index_table() -> str:
    """Return the indexes that reads need."""
    lines = ["| Collection | Index on | Made by |", "|---|---|---|"]
    for index in indexes.ALL:
        by = "`store apply`, and at start while it is empty" if index in indexes.PLATFORMS else "the worker at start"
        by += ": deletes when the time in it has come" if index.expires else ""
        lines.append(f"| `{index.collection}` | {', '.join(f'`{field}`' for field in index.fields)} | {by} |")
    return "\n".join(lines) + "\n"


TABLES = {
    README: {"settings": settings_table, "exit codes": exit_code_table},
    SCHEMAS: {"documents": document_table, "codes": code_table, "warnings": warning_table},
    ROOT / "deploy" / "mongodb" / "README.md": {"indexes": index_table},
    DEPLOY: {"log events": event_table, "metrics": metric_table},
}

if __name__ == "__main__":
    for document in TABLES:
        document.write_text(written(document))
    for published in DOCUMENTS:
        (ROOT / "schemas" / published.file).write_text(published.text(), encoding="utf-8")
