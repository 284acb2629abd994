"""`cim-worker schemas`: the public contract as documents, made by this very version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.schemas import Page, Published


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "schemas",
        schemas,
        "cim-worker schemas",
        "cim-worker schemas message > message.schema.json",
        "cim-worker schemas --output schemas/",
    )


def schemas(
    name: Annotated[str | None, typer.Argument(help="Print this document.", show_default=False)] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="DIR", help="Write the documents into this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON instead of a table.")] = False,
) -> None:
    """List the documents of the public contract, print one, or write them all into a folder.

    JSON Schema 2020-12 of messages, events, receipts, the journal, dead letters and lifecycle events; an AsyncAPI
    document of queues and exchanges; the catalogue of reasons; and pages of both to read. Needs neither broker nor
    store. Exit code 5 when there is no document of that name.
    """
    from worker.schemas import DOCUMENTS, VERSION

    chosen = DOCUMENTS if name is None else _named(name, DOCUMENTS)
    if output is not None:
        _write(chosen, Path(output))
    elif name is not None:
        sys.stdout.write(chosen[0].text())
    elif as_json:
        rows = [{"name": one.name, "file": one.file, "about": one.about} for one in chosen]
        print_json({"version": VERSION, "documents": rows})
    else:
        print_table(
            f"version {VERSION}", ("name", "file", "about"), [(one.name, one.file, one.about) for one in chosen]
        )


def _named(name: str, documents: Sequence[Published | Page]) -> Sequence[Published | Page]:
    found = [one for one in documents if name in {one.name, one.file}]
    if not found:
        names = ", ".join(one.name for one in documents)
        raise CommandError(ExitCode.NOT_FOUND, f"there is no document {name}; there are: {names}")
    return found


def _write(documents: Sequence[Published | Page], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in documents:
            (folder / one.file).write_text(one.text(), encoding="utf-8")
            print_line(str(folder / one.file))
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror}; name another folder with --output"
        raise CommandError(ExitCode.CONFIGURATION, text) from None
