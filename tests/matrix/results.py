"""What the rows of all runs came to, kept in a file, and the table made of it."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from tests.matrix.interpreters import CACHE, ROOT
from tests.matrix.parts import Count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.matrix.rows import Row

_FILE: Final = CACHE / "results.json"
_PAGE: Final = ROOT / "tests" / "README.md"
_BEGIN: Final = "<!-- matrix: written by python -m tests.matrix --readme -->\n"
_END: Final = "<!-- end of matrix -->"


@dataclass(slots=True)
class Result:
    """What is known of one row."""

    version: str = ""
    reason: str = ""
    """Why it could not be started, if so."""
    parts: dict[str, Count] = field(default_factory=dict)
    days: dict[str, str] = field(default_factory=dict)
    """By part, the day of its run."""

    @property
    def has_failed(self) -> bool:
        """Whether a test of it failed."""
        return any(count.failed for count in self.parts.values())

    def note(self, part: str, count: Count) -> None:
        """Keep what a part came to."""
        self.parts[part] = count
        self.days[part] = datetime.now(UTC).date().isoformat()


class Results:
    """The results of all rows; written down after every part, so that a run can be taken up again.

    Two runs may go on beside each other, with rows of their own: each writes only those that it asked for with `of`.
    """

    def __init__(self, rows: dict[str, Result], file: Path = _FILE) -> None:
        self._rows = rows
        self._mine: dict[str, Result] = {}
        self._file = file

    @classmethod
    def read(cls, file: Path = _FILE) -> Self:
        """Return what earlier runs left."""
        return cls(_kept(file), file)

    def of(self, name: str) -> Result:
        """Return what is known of a row, to be changed; call `write` afterwards."""
        return self._mine.setdefault(name, self._rows.setdefault(name, Result()))

    def forget(self, name: str, parts: Sequence[str]) -> None:
        """Forget what these parts of a row came to."""
        for part in parts:
            self.of(name).parts.pop(part, None)
            self.of(name).days.pop(part, None)

    def missing(self, name: str, parts: Sequence[str]) -> list[str]:
        """Return those parts that have not passed yet."""
        known = self.of(name).parts
        return [part for part in parts if part not in known or known[part].failed]

    def write(self) -> None:
        """Write down what has changed here, and take over what other runs have written meanwhile."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._rows = _kept(self._file) | self._mine
            self._file.write_text(json.dumps({name: asdict(one) for name, one in self._rows.items()}, indent=1) + "\n")

    def table(self, rows: Sequence[Row]) -> Iterator[str]:
        """Yield the table of *rows*."""
        yield "| row | implementation | version | passed | known difference | last run |"
        yield "|---|---|---|---|---|---|"
        for row in rows:
            one = self._rows.get(row.name, Result())
            cells = (row.what, one.version, _said(row, one), row.known, max(one.days.values(), default=""))
            yield f"| `{row.name}` | {' | '.join(cell or '-' for cell in cells)} |"

    def publish(self, rows: Sequence[Row], page: Path = _PAGE) -> None:
        """Write the table of *rows* into the page about the tests."""
        before, found, rest = page.read_text().partition(_BEGIN)
        _, also_found, after = rest.partition(_END)
        if not (found and also_found):
            raise ValueError(f"{page} has no place for the table")
        page.write_text(before + _BEGIN + "\n".join(self.table(rows)) + "\n" + _END + after)


def _said(row: Row, one: Result) -> str:
    if one.reason:
        return f"not started: {one.reason}"
    return ", ".join(f"{part} {_count(one.parts.get(part))}" for part in row.parts) or "-"


def _count(count: Count | None) -> str:
    if count is None:
        return "not run"
    notes = [f"{number} {word}" for number, word in ((count.known, "known"), (count.again, "again")) if number]
    passed = f"{count.passed} ({', '.join(notes)})" if notes else str(count.passed)
    return f"**{count.failed} failed**, {passed}" if count.failed else passed


def _kept(file: Path) -> dict[str, Result]:
    kept = json.loads(file.read_text()) if file.exists() else {}
    return {name: _result(facts) for name, facts in kept.items()}


def _result(facts: dict[str, object]) -> Result:
    result = Result(**facts)  # type: ignore[arg-type] # what `write` wrote
    result.parts = {part: Count(**count) for part, count in result.parts.items()}  # type: ignore[arg-type]
    return result
