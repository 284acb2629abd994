"""The matrix: what is kept of a row, what is run again, and what its table says."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.matrix import __main__ as matrix
from tests.matrix import interpreters, parts, rows
from tests.matrix.parts import PARTS, Count
from tests.matrix.place import CannotStartError, Place
from tests.matrix.results import Results
from tests.matrix.rows import ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = "above\n<!-- matrix: written by python -m tests.matrix --readme -->\nold\n<!-- end of matrix -->\nbelow\n"


@contextlib.contextmanager
def nowhere() -> Iterator[Place]:
    raise CannotStartError("it is not on this machine")
    yield


def row(name: str = "one", *, known: str = "") -> Row:
    return Row(name, "broker", ("unit", "chaos"), lambda: contextlib.nullcontext(Place("RabbitMQ 9")), known)


def results(tmp_path: Path) -> Results:
    return Results.read(tmp_path / "results.json")


def test_results_survive_and_what_has_not_passed_is_missing(tmp_path: Path) -> None:
    first = results(tmp_path)
    first.of("one").note("unit", Count(10))
    first.of("one").note("chaos", Count(failed=1))
    first.write()
    again = results(tmp_path)
    assert again.of("one").parts == {"unit": Count(10), "chaos": Count(failed=1)}
    assert again.missing("one", PARTS) == [part for part in PARTS if part != "unit"]
    assert again.of("one").has_failed


def test_runs_beside_each_other_keep_what_the_other_one_wrote(tmp_path: Path) -> None:
    first, second = results(tmp_path), results(tmp_path)
    first.of("one").note("unit", Count(10))
    second.of("two").note("unit", Count(20))
    first.write()
    second.write()
    assert results(tmp_path).of("one").parts == {"unit": Count(10)}
    assert [line.split("|")[4].strip() for line in list(second.table([row(), row("two")]))[2:]] == [
        "unit 10, chaos not run",
        "unit 20, chaos not run",
    ]


def test_the_table_says_what_passed_what_failed_and_what_never_started(tmp_path: Path) -> None:
    known = results(tmp_path)
    known.of("one").version = "RabbitMQ 9"
    known.of("one").note("unit", Count(10, failed=2, known=1, again=3))
    known.of("one").days["unit"] = "2026-11-26"
    known.of("two").reason = "it is not on this machine"
    lines = list(known.table([row(known="counts more"), row("two")]))
    assert lines[2:] == [
        (
            "| `one` | broker | RabbitMQ 9 | unit **2 failed**, 10 (1 known, 3 again), chaos not run"
            " | counts more | 2026-11-26 |"
        ),
        "| `two` | broker | - | not started: it is not on this machine | - | - |",
    ]


def test_the_page_gets_the_table_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    results(tmp_path).publish([row()], page)
    text = page.read_text()
    assert text.startswith("above\n<!-- matrix")
    assert text.endswith("<!-- end of matrix -->\nbelow\n")
    assert "| `one` |" in text
    assert "old" not in text


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1)])
def test_a_failed_row_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int, code: int) -> None:
    never = Row("two", "a store", ("unit",), nowhere)
    monkeypatch.setattr(matrix, "ROWS", (row(), never))
    monkeypatch.setattr(matrix, "_LOGS", tmp_path)
    monkeypatch.setattr(matrix, "run", lambda *_args, **_options: Count(3, failed))
    assert matrix.main(["--resume"], results(tmp_path)) == code
    assert results(tmp_path).of("one").parts == {"unit": Count(3, failed), "chaos": Count(3, failed)}
    assert results(tmp_path).of("two").reason == "it is not on this machine"


def test_what_is_expected_to_fail_is_no_failure_and_a_run_that_says_nothing_is_one() -> None:
    report = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2"/></testsuites>'
    assert parts._counted(report) == Count(passed=5, failed=2, known=2)
    assert parts._counted("") == Count(failed=1)


REPORT = """<testsuites><testsuite tests="3" failures="{failed}" errors="0" skipped="0">
<testcase classname="tests.integration.test_x" name="test_that_passes"/>
<testcase classname="tests.integration.test_x" name="test_that_fails[a b]">{what}</testcase>
<testcase classname="tests.integration.test_x" name="test_too"/></testsuite></testsuites>"""
SECOND = '<testsuites><testsuite tests="1" failures="{0}" errors="0" skipped="0"/></testsuites>'


@pytest.mark.parametrize(
    ("fails_again", "count"),
    [(0, Count(passed=3, again=1)), (1, Count(passed=2, failed=1))],
)
def test_what_fails_beside_others_runs_once_more_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_again: int, count: Count
) -> None:
    reports = [REPORT.format(failed=1, what="<failure/>"), SECOND.format(fails_again)]
    commands: list[list[str]] = []

    def logged(command: list[str], _environment: object, _log: Path) -> int:
        Path(command[-1].removeprefix("--junitxml=")).write_text(reports[len(commands)])
        commands.append(command)
        return 1

    monkeypatch.setattr(parts, "_logged", logged)
    assert parts.run("integration", row(), Place("RabbitMQ 9"), tmp_path / "log", whole=False) == count
    assert "tests/integration/test_x.py::test_that_fails[a b]" in commands[1]
    assert "tests/integration" not in commands[1]


def test_every_row_has_a_name_of_its_own_and_parts_that_exist() -> None:
    assert len({one.name for one in ROWS}) == len(ROWS)
    assert {part for one in ROWS for part in one.parts} <= set(PARTS)
    acceptance = Path(rows.__file__).parents[1] / "acceptance"
    assert all((acceptance / name).exists() for name in parts.ACCEPTANCE)


def test_the_oldest_libraries_are_the_bounds_of_the_project() -> None:
    oldest = interpreters.oldest()
    assert "pika==1.4.4" in oldest
    declared = tomllib.loads((interpreters.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(oldest) == len(declared), "each has a lower bound that can be read"


def test_every_row_is_explained() -> None:
    page = (interpreters.ROOT / "tests" / "README.md").read_text()
    explained = page.partition("## The matrix")[2].partition("<!-- matrix")[0]
    assert [one.name for one in ROWS if f"`{one.name}`" not in explained] == ["python-3.12", "python-3.13"]


def test_a_row_that_is_named_is_meant_alone_and_a_part_of_a_name_means_all_that_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix.main(["--list", "--only", "store-ferretdb"], results(tmp_path)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[0] == "store-ferretdb"
    assert matrix.main(["--list", "--only", "ferretdb"], results(tmp_path)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
