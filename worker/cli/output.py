"""How commands print: tables for people, tabs for pipes, JSON for programs, progress on a terminal only.

Everything a command prints goes through here, so that text from strangers never reaches a terminal as it is.
"""

from __future__ import annotations

import inspect
import json
import re
import select
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

from worker.ops.printable import is_printable, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import typer
    from rich.progress import Progress

_NOT_ASCII: Final = re.compile(r"[^\n\x20-\x7e]")
_BORDER: Final = 3
"""Characters a table needs beside each cell."""
_SHORT: Final = 20
"""A cell of so many characters stays on one line as long as another column can be left out for it."""


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


def counted(number: int, what: str) -> str:
    """Return `1 message`, `2 messages` and so on."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_line(text: str = "") -> None:
    """Print one line on standard output."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """Print *document* as JSON on standard output: every character that a terminal might obey is escaped."""
    print_json_text(_as_json(document))
    sys.stdout.flush()


def print_json_with(members: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """Print what `print_json` prints of *members* with *items* as a list under *name*; holds one item at a time."""
    head, between = _as_json({**members, name: []}).removesuffix("]\n}"), "\n"
    print_json_text(head, end="")
    for item in items:
        print_json_text(between + textwrap.indent(_as_json(item), "    "), end="")
        between = ",\n"
    print_json_text("]\n}" if between == "\n" else "\n  ]\n}")
    sys.stdout.flush()


def _as_json(document: Any) -> str:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(document, ensure_ascii=not unicode, indent=2, default=str)


def print_json_text(text: str, *, end: str = "\n") -> None:
    """Print JSON that is written already, as `print_json` does, and then *end*."""
    sys.stdout.write(_NOT_ASCII.sub(_escaped, text) + end)


def print_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()
) -> None:
    """Print a table on standard output. A list or tuple as cell has its items on lines of their own.

    No name is ever cut: on a terminal that is too narrow the columns *spare* are left out, the first ones first, as
    far as it takes, and a line says which; where that does not help each row becomes a block of lines, one per column.
    In a pipe or a file it is one line per row, tab-separated, the columns' names first.
    """
    if sys.stdout.isatty():
        _print_on_terminal(title, columns, [[_lines(cell) for cell in row] for row in rows], spare)
    else:
        sys.stdout.write("\t".join(columns) + "\n")
        for row in rows:
            sys.stdout.write("\t".join(", ".join(_lines(cell)) for cell in row) + "\n")
    sys.stdout.flush()


def _print_on_terminal(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[list[str]]], spare: Sequence[str]
) -> None:
    longest, whole = _longest_words(columns, rows), _whole_cells(columns, rows)
    unbroken = [cell if cell <= _SHORT else word for cell, word in zip(whole, longest, strict=True)]
    for least in (unbroken, longest) if spare else (longest,):
        kept = _fitting([width + _BORDER for width in least], list(map(columns.index, spare)))
        if kept is not None:
            break
    else:
        _print_stacked(columns, rows)
        return
    widths = _grown([least[place] for place in kept], [whole[place] for place in kept])
    _print_bordered(title, [columns[place] for place in kept], [[row[place] for place in kept] for row in rows], widths)
    if left_out := [name for place, name in enumerate(columns) if place not in kept]:
        print_line(f"a wider terminal or --json shows also: {', '.join(left_out)}")


def _fitting(needed: Sequence[int], spare: Sequence[int]) -> list[int] | None:
    """Return the places of the columns that fit beside each other; None when not even those do that are not *spare*."""
    room = terminal_width() - 1 - sum(needed)
    left_out: list[int] = []
    for place in spare:
        if room < 0:
            left_out.append(place)
            room += needed[place]
    if room < 0:
        return None
    for place in reversed(left_out):  # what was left out before a wider one was
        if needed[place] <= room:
            room -= needed[place]
            left_out.remove(place)
    return [place for place in range(len(needed)) if place not in left_out]


def _grown(widths: Sequence[int], whole: Sequence[int]) -> list[int]:
    """Return how wide each column is: room beside what is needed goes to the one that would take the most lines."""
    grown = list(widths)
    for _ in range(terminal_width() - 1 - sum(grown) - _BORDER * len(grown)):
        _, place = max((whole[place] / max(width, 1), place) for place, width in enumerate(grown))
        if grown[place] >= whole[place]:
            break
        grown[place] += 1
    return grown


def progress(*, beside_output: bool = False) -> Progress:
    """Return a progress display on standard error; it shows nothing unless that is a terminal.

    *beside_output*: lines are printed meanwhile. Then it shows nothing where these go to a terminal, too.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_terminal = sys.stderr.isatty() and not (beside_output and sys.stdout.isatty())
    # Rich 13.9 and 14.0 end a bar that is not shown with an empty line.
    console = Console(stderr=True, quiet=not is_terminal)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not is_terminal)


def shows_on_terminal() -> bool:
    """Tell whether standard output is a terminal."""
    return sys.stdout.isatty()


def has_reader() -> bool:
    """Tell whether somebody may still read standard output: after `| head` has ended, nobody does."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not poller.poll(0)


def terminal_width() -> int:
    """Return how many characters fit into a line of standard output."""
    from rich.console import Console

    return Console().width


def _lines(cell: object) -> list[str]:
    items = cell if isinstance(cell, list | tuple) else [cell]
    return [printable("" if item is None else str(item)) for item in items]


def _longest_words(columns: Sequence[str], rows: Sequence[Sequence[list[str]]]) -> list[int]:
    """Return how wide each column has to be when its cells may be broken at spaces only."""
    from rich.cells import cell_len

    return [max((cell_len(word) for text in one for word in text.split()), default=0) for one in _texts(columns, rows)]


def _whole_cells(columns: Sequence[str], rows: Sequence[Sequence[list[str]]]) -> list[int]:
    """Return how wide each column has to be when no line of its cells may be broken."""
    from rich.cells import cell_len

    return [max(map(cell_len, one)) for one in _texts(columns, rows)]


def _texts(columns: Sequence[str], rows: Sequence[Sequence[list[str]]]) -> list[list[str]]:
    return [[name, *(line for row in rows for line in row[place])] for place, name in enumerate(columns)]


def _print_stacked(columns: Sequence[str], rows: Sequence[Sequence[list[str]]]) -> None:
    margin = max(map(len, columns)) + 2
    for number, row in enumerate(rows):
        if number:
            sys.stdout.write("\n")
        for name, cell in zip(columns, row, strict=True):
            for place, line in enumerate(cell):
                start = f"{name}:" if name and not place else ""
                sys.stdout.write(f"{start:<{margin}}{line}".rstrip() + "\n")


def _print_bordered(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[list[str]]], widths: Sequence[int]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width)
    for row in rows:
        table.add_row(*(Text("\n".join(cell)) for cell in row))
    Console(highlight=False).print(table)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if is_printable(character) else json.dumps(character)[1:-1]
