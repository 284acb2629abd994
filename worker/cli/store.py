"""`cim-worker store`: the indexes that searches in the store need."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_table, progress
from worker.cli.services import command_settings, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.mongo.client import Store
    from worker.mongo.indexes import Index

_ENVIRONMENT = ("CIM_MONGODB_URI", "CIM_MONGODB_DATABASE")
_LONGEST_BUILD_MS = 24 * 60 * 60 * 1000
"""Longest to wait for one index of a large collection."""
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before creating indexes.")]


_OK, _MISSING, _CREATED, _REFUSED = "ok", "missing", "created", "refused"
_FIX = "cim-worker store apply --yes"
_REFUSED_FIX = "compare the collection's own indexes, or give the user the right createIndex"


@dataclass(frozen=True, slots=True)
class _Row:
    index: Index
    documents: int
    """About how many the collection holds."""
    state: str
    fix: str = ""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Create or check the indexes that searches in the store need.", no_args_is_help=True)
    add_command(
        group, "apply", apply, "cim-worker store apply", "cim-worker store apply --yes", environment=_ENVIRONMENT
    )
    add_command(
        group,
        "check",
        check,
        "cim-worker store check",
        "cim-worker store check --json | jq '.problems'",
        environment=_ENVIRONMENT,
    )
    app.add_typer(group, name="store")


def apply(yes: _Yes = False, as_json: _Json = False) -> None:
    """Create missing indexes, after showing which and asking. Existing indexes are never changed or dropped.

    An index serves, whatever its name, when it begins with the same fields. Creating one in a large collection takes
    the server's time: choose a quiet hour. May be run again at any time. Exit code 2 when an index is still missing.
    """
    _report(asyncio.run(_apply(yes=yes, as_json=as_json)), as_json=as_json)


def check(as_json: _Json = False) -> None:
    """Check without changing anything: exit code 2 when an index is missing."""
    _report(asyncio.run(_check()), as_json=as_json)


async def _check() -> list[_Row]:
    async with open_store(command_settings()) as store:
        return await _look(store)


async def _apply(*, yes: bool, as_json: bool) -> list[_Row]:
    async with open_store(command_settings(), timeout_ms=_LONGEST_BUILD_MS) as store:
        rows = await _look(store)
        absent = [row for row in rows if row.state == _MISSING]
        if not absent or not (yes or _is_confirmed(absent, as_json=as_json)):
            return rows
        with progress() as display:
            task = display.add_task("creating indexes", total=len(absent))
            for place, row in enumerate(rows):
                if row in absent:
                    rows[place] = await _made(store, row)
                    display.advance(task)
        return rows


async def _look(store: Store) -> list[_Row]:
    from worker.mongo import indexes

    rows: list[_Row] = []
    for collection in dict.fromkeys(index.collection for index in indexes.ALL):
        absent = await indexes.missing(store, collection)
        documents = await indexes.size(store, collection)
        rows += [
            _Row(index, documents, *((_MISSING, _FIX) if index in absent else (_OK,)))
            for index in indexes.ALL
            if index.collection == collection
        ]
    return rows


async def _made(store: Store, row: _Row) -> _Row:
    from worker.mongo import indexes

    refused = await indexes.make(store, row.index)
    if refused is None:
        return replace(row, state=_CREATED, fix="")
    return replace(row, state=f"{_REFUSED}: {refused.detail}", fix=_REFUSED_FIX)


def _is_confirmed(absent: Sequence[_Row], *, as_json: bool) -> bool:
    """Show what is missing and ask; False where nobody can be asked."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    _print(absent)
    return typer.confirm("Create these indexes?", err=True)


def _report(rows: Sequence[_Row], *, as_json: bool) -> None:
    problems = sum(row.state not in {_OK, _CREATED} for row in rows)
    if as_json:
        printed = [
            {
                "collection": row.index.collection,
                "fields": row.index.fields,
                "documents": row.documents,
                "state": row.state,
                "fix": row.fix,
            }
            for row in rows
        ]
        print_json({"problems": problems, "indexes": printed})
    else:
        _print(rows)
    if problems:
        raise typer.Exit(ExitCode.CONFIGURATION)


def _print(rows: Sequence[_Row]) -> None:
    print_table(
        None,
        ("collection", "index", "documents", "state", "fix"),
        [(row.index.collection, row.index.name, row.documents, row.state, row.fix) for row in rows],
    )
