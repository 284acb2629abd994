"""How commands print: tables for people, JSON for programs, progress on a terminal only."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import typer
    from rich.console import RenderableType
    from rich.progress import Progress

_WIDTH_WHEN_NOT_A_TERMINAL = 160


def add_command(
    group: typer.Typer, name: str, function: Callable[..., None], *examples: str, environment: Sequence[str] = ()
) -> None:
    """Add *function* to *group* as a command whose help is its docstring, and ends with *examples*."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    group.command(name, help=text, epilog=help_end(*examples, environment=environment))(function)


def help_end(*examples: str, environment: Sequence[str] = ()) -> str:
    """Return the end of a help page: worked examples, then the variables that matter."""
    lines = ["Examples:", *(f"  {example}" for example in examples)]
    if environment:
        lines += [f"Environment: {', '.join(environment)} (more: cim-worker settings)"]
    return "\n".join(lines)


def print_json(document: Any) -> None:
    """Print *document* as JSON on standard output."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; cells are shown as they are, without markup."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    print_rich(table)


def print_rich(renderable: RenderableType) -> None:
    """Print something of rich's on standard output, wide enough when that is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_WHEN_NOT_A_TERMINAL
    Console(width=width, highlight=False).print(renderable)


def progress() -> Progress:
    """Return a progress display on standard error; it shows nothing unless that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
