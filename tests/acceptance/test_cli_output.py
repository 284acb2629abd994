"""What commands print: whole names at any width, tabs in a pipe, no terminal codes of strangers, in any encoding."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_cli_offline import INVALID, VALID
from tests.support.command import COMMAND, cim_worker, environment, printed_json
from tests.support.terminal import on_terminal, printed_on_terminal
from worker.cli.exit_codes import ExitCode
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTING_NAMES = [f"CIM_{name.upper()}" for name in Settings.model_fields]
ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e\x9b2J"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A file whose name holds terminal codes, with an invalid message."""
    file = tmp_path / f"a{ESCAPE}.json"
    file.write_text(json.dumps(INVALID))
    return file


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 250])
def test_no_name_is_cut_however_narrow_the_terminal(columns: int) -> None:
    shown = on_terminal("settings", columns=columns)

    assert [name for name in SETTING_NAMES if not re.search(rf"\b{name}\b", shown)] == []
    assert "…" not in shown


@pytest.mark.parametrize("columns", [40, 80])
def test_codes_and_pointers_are_whole_on_a_narrow_terminal(columns: int, tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    file.write_text(json.dumps({**INVALID, "header": {"sender": {"type": "APP"}}}))

    shown = on_terminal("validate", str(file), columns=columns)

    for name in ("missing_sender_id", "missing_anchor", "/header/sender/id", str(file)):
        assert name in shown, shown


def test_a_wide_terminal_shows_a_table() -> None:
    assert "│ CIM_PREFETCH " in on_terminal("settings", columns=250)


def test_in_a_pipe_a_table_is_tab_separated() -> None:
    header, *rows = (line.split("\t") for line in cim_worker("settings", COLUMNS="20").stdout.splitlines())

    assert header[:2] == ["variable", "value"]
    assert {row[0] for row in rows} >= set(SETTING_NAMES)
    assert {len(row) for row in rows} == {len(header)}


def test_terminal_codes_of_strangers_are_replaced_in_tables_errors_and_json(hostile: Path) -> None:
    commands: Sequence[Sequence[str]] = (
        ("validate", str(hostile)),
        ("validate", "--json", str(hostile)),
        ("validate", f"missing{ESCAPE}"),
    )
    for command in commands:
        for shown in (on_terminal(*command, columns=200), on_terminal(*command, columns=30)):
            assert not re.search("[\x07\u202e\x9b]|\x1b\\]|\x1b\\[31m", shown), repr(shown)
    assert printed_json(cim_worker("validate", "--json", str(hostile)))["messages"][0]["file"] == str(hostile)


def test_a_long_check_shows_on_a_terminal_how_far_it_is(tmp_path: Path) -> None:
    file = tmp_path / "many.json"
    file.write_text(json.dumps([VALID] * 3000))

    bars = on_terminal("validate", str(file), columns=100)

    assert f"{file.stat().st_size // 1024}" in bars[bars.index("reading, KiB") : bars.index("validating")]
    assert "3000/3000" in bars
    assert "reading" not in printed_on_terminal("validate", str(file), columns=100)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminal_cannot_show_is_written_in_ascii(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "gespräch-対話.json"
    file.write_text(json.dumps(VALID))

    table = run("validate", str(file), PYTHONIOENCODING=encoding)
    document = run("validate", "--json", str(file), PYTHONIOENCODING=encoding)
    help_page = run("publish", "--help", PYTHONIOENCODING=encoding)

    assert [one.returncode for one in (table, document, help_page)] == [0, 0, 0], table.stderr + help_page.stderr
    assert "\\u5bfe\\u8a71.json" in table.stdout.decode(encoding)
    assert json.loads(document.stdout)["messages"][0]["file"] == str(file)
    assert "FILE..." in help_page.stdout.decode(encoding)


def test_an_argument_that_is_no_text_is_one_sentence_and_wrong_usage() -> None:
    finished = run("conversations", "close", b"c-\xff")

    assert finished.returncode == ExitCode.CONFIGURATION
    assert finished.stderr.decode() == "cim-worker: argument 3 is not text in the encoding utf-8\n"


def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    file = bytes(tmp_path) + b"/\xff.json"
    Path(str(tmp_path) + "/\udcff.json").write_text(json.dumps(VALID))

    assert run("validate", file).returncode == ExitCode.OK
    assert run("validate", "--json", file).returncode == ExitCode.OK


def test_a_reader_that_leaves_changes_nothing_but_the_output(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text((json.dumps(INVALID) + "\n") * 20_000)
    script = f"'{COMMAND}' validate '{file}' | head -n 2; echo ${{PIPESTATUS[0]}}"

    finished = subprocess.run(["bash", "-c", script], capture_output=True, check=False, env=environment())

    assert finished.stdout.splitlines()[-1] == str(ExitCode.REJECTED.value).encode()
    assert finished.stderr == b""


@pytest.mark.parametrize("arguments", [("settings",), ("settings", "--json"), ("--help",), ("--version",)])
def test_a_full_disk_is_a_sentence(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False, env=environment()
        )

    assert finished.returncode == ExitCode.UNEXPECTED
    assert finished.stderr.decode() == "cim-worker: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("closing", ["2>&-", "<&- 2>&-"])
def test_a_closed_standard_error_changes_nothing(closing: str) -> None:
    for arguments, expected in (("settings", ExitCode.OK), ("validate missing.json", ExitCode.CONFIGURATION)):
        script = f"'{COMMAND}' {arguments} {closing}"

        finished = subprocess.run(["bash", "-c", script], capture_output=True, check=False, env=environment())

        assert finished.returncode == expected


def test_with_standard_output_closed_the_work_is_done() -> None:
    finished = subprocess.run(
        ["bash", "-c", f"'{COMMAND}' settings >&-"], capture_output=True, check=False, env=environment()
    )

    assert (finished.returncode, finished.stderr) == (ExitCode.OK, b"")


@pytest.mark.parametrize(
    "arguments", ["validate -", "publish -", "dead-letters import - --reason x", "dead-letters edit x --file -"]
)
def test_closed_standard_input_is_empty(arguments: str) -> None:
    nobody = environment(CIM_MONGODB_URI="mongodb://127.0.0.1:1/", CIM_MONGODB_TIMEOUT_MS="200")
    script = f"'{COMMAND}' {arguments} <&-"

    finished = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=nobody)

    assert finished.returncode in {ExitCode.CONFIGURATION, ExitCode.STORE_UNREACHABLE}, finished.stderr
    assert "unexpected" not in finished.stderr


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_log_is_plain_where_colours_are_not_wanted(variables: dict[str, str]) -> None:
    coloured = on_terminal("settings", columns=300, CIM_RABBIT_URL="x")
    plain = on_terminal("settings", columns=300, CIM_RABBIT_URL="x", **variables)

    assert re.search("\x1b\\[[0-9;]*m.*variable not read", coloured)
    assert not re.search("\x1b\\[[0-9;]*m.*variable not read", plain)


def run(*arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment(**variables)
    )
