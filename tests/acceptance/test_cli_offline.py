"""What the command line does without broker and store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import COMMAND, cim_worker, printed_json, running, wait_until
from worker import __version__
from worker.cli.exit_codes import ExitCode

EXAMPLES = sorted((Path(__file__).parents[2] / "schemas" / "examples").glob("*.json"))
VALID: dict[str, Any] = {
    "id": "m-1",
    "header": {"sender": {"id": "app-1", "type": "APP"}, "conversationId": "c-1"},
    "body": {"type": "PLAIN", "markdownText": "a secret text"},
}
INVALID = {**VALID, "header": {"sender": {"id": "app-1", "type": "APP"}}}
COMMANDS = (
    ("run",),
    ("topology", "apply"),
    ("topology", "check"),
    ("conversations", "open"),
    ("conversations", "close"),
    ("conversations", "show"),
    ("conversations", "list"),
    ("validate",),
    ("publish",),
    ("settings",),
    ("schemas",),
    ("demo",),
)


@pytest.mark.parametrize("command", [(), ("topology",), ("conversations",), *COMMANDS], ids=" ".join)
def test_the_short_option_shows_the_same_help(command: tuple[str, ...]) -> None:
    assert cim_worker(*command, "-h").stdout == cim_worker(*command, "--help").stdout


def test_a_shell_completes_commands_once_completion_is_installed(tmp_path: Path) -> None:
    installed = cim_worker("--install-completion", "bash", HOME=str(tmp_path))
    completed = cim_worker(_CIM_WORKER_COMPLETE="complete_bash", COMP_WORDS="cim-worker topo", COMP_CWORD="1")

    assert installed.returncode == ExitCode.OK
    assert "_CIM_WORKER_COMPLETE" in "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert completed.stdout.split() == ["topology"]


def test_the_addresses_that_are_shown_can_be_set() -> None:
    shown = printed_json(cim_worker("settings", "--json"))
    addresses = {name: shown[name]["value"] for name in ("CIM_RABBITMQ_URL", "CIM_MONGODB_URI")}

    again = printed_json(cim_worker("settings", "--json", **addresses))

    assert addresses == {"CIM_RABBITMQ_URL": "amqp://localhost:5672/", "CIM_MONGODB_URI": "mongodb://localhost:27017/"}
    assert {name: again[name]["value"] for name in addresses} == addresses
    assert again["CIM_RABBITMQ_URL"]["virtual_host"] == "/"


def test_every_setting_has_the_same_keys_in_json() -> None:
    keys = {"value", "default", "is_default", "unit", "description"}

    for name, entry in printed_json(cim_worker("settings", "--json")).items():
        assert set(entry) == keys | ({"virtual_host"} if name == "CIM_RABBITMQ_URL" else set())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_ends_with_examples(command: tuple[str, ...]) -> None:
    finished = cim_worker(*command, "--help")

    assert finished.returncode == ExitCode.OK
    assert f"cim-worker {' '.join(command)}" in finished.stdout.partition("Examples:")[2]


def test_help_is_quick_and_names_the_variables_that_matter() -> None:
    before = time.monotonic()

    finished = cim_worker("--help")

    assert time.monotonic() - before < 5
    assert "CIM_RABBITMQ_URL" in finished.stdout
    assert "CIM_MONGODB_URI" in finished.stdout


def test_the_version_is_printed() -> None:
    assert cim_worker("--version").stdout.strip() == f"cim-worker {__version__}"


@pytest.mark.parametrize("arguments", [("nonsense",), ("validate",), ("run", "--processes", "0"), ("demo", "--wrong")])
def test_wrong_usage_ends_with_its_own_code(arguments: tuple[str, ...]) -> None:
    assert cim_worker(*arguments).returncode == ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("publish", "--timeout", "5"), "--wait"),
        (("publish", "--keep-going", "--no-check"), "--no-check"),
        (("publish", "--resume", "/nowhere/state.json"), "another folder"),
        (("validate", "--json", "--format", "github"), "--format github"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_would_be_ignored_or_cannot_be_kept_is_refused_with_its_fix(
    arguments: tuple[str, ...], named: str
) -> None:
    finished = cim_worker(*arguments, "-", stdin=json.dumps(VALID), CIM_RABBITMQ_URL="amqp://127.0.0.1:9/")
    assert finished.returncode == ExitCode.CONFIGURATION
    assert named in finished.stderr
    assert finished.stdout == ""


def test_every_published_example_is_valid() -> None:
    finished = cim_worker("validate", *EXAMPLES, "--json")

    assert finished.returncode == ExitCode.OK, finished.stdout
    assert printed_json(finished)["valid"] == len(EXAMPLES)
    assert len(EXAMPLES) > 20


def test_a_single_message_from_standard_input_is_judged() -> None:
    finished = cim_worker("validate", "-", stdin=json.dumps(INVALID, indent=2))

    assert finished.returncode == ExitCode.REJECTED
    assert "missing_anchor" in finished.stdout
    assert "/header" in finished.stdout


def test_of_an_array_each_element_is_judged_alone() -> None:
    finished = cim_worker("validate", "-", "--json", stdin=json.dumps([VALID, INVALID]))

    assert finished.returncode == ExitCode.REJECTED
    messages = printed_json(finished)["messages"]
    assert [(one["index"], one["result"]) for one in messages] == [(1, "valid"), (2, "rejected")]
    assert messages[1]["problems"][0]["code"] == "missing_anchor"


def test_of_json_lines_each_line_is_judged_alone(tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_text(json.dumps(VALID) + "\n\nnonsense\n" + json.dumps(INVALID) + "\n")

    finished = cim_worker("validate", file, "--json")

    messages = printed_json(finished)["messages"]
    assert [(one["index"], [p["code"] for p in one["problems"]]) for one in messages] == [
        (1, []),
        (3, ["malformed_json"]),
        (4, ["missing_anchor"]),
    ]


def test_validation_honours_the_size_limit() -> None:
    message = {**VALID, "body": {"type": "PLAIN", "markdownText": "x" * 2000}}

    finished = cim_worker("validate", "-", "--json", stdin=json.dumps(message), CIM_MAX_MESSAGE_BYTES="1500")

    assert printed_json(finished)["messages"][0]["problems"][0]["code"] == "message_too_large"


def test_validation_never_repeats_the_text_of_a_message() -> None:
    finished = cim_worker("validate", "-", stdin=json.dumps({**INVALID, "id": 5}))

    assert finished.returncode == ExitCode.REJECTED
    assert "a secret text" not in finished.stdout + finished.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    finished, nameless = cim_worker("validate", "missing.json"), cim_worker("validate", "")

    assert finished.returncode == nameless.returncode == ExitCode.CONFIGURATION
    assert "is empty" in nameless.stderr
    assert finished.stderr.count("\n") == 1
    assert "missing.json" in finished.stderr


def test_settings_show_addresses_and_never_credentials() -> None:
    variables = {
        "CIM_RABBITMQ_URL": "amqp://someone:hunter2@broker.example.org:5673/v%2Fhost",
        "CIM_MONGODB_URI": "mongodb://someone:hunter2@one.example.org:27018,two.example.org/?authSource=admin",
        "CIM_BATCH_SIZE": "321",
    }

    table = cim_worker("settings", **variables)
    settings = printed_json(cim_worker("settings", "--json", **variables))

    assert "hunter2" not in table.stdout
    assert settings["CIM_RABBITMQ_URL"]["value"] == "amqp://broker.example.org:5673/v%2Fhost"
    assert settings["CIM_RABBITMQ_URL"]["virtual_host"] == "v/host"
    assert "virtual host: v/host" in table.stdout
    assert settings["CIM_MONGODB_URI"]["value"] == "mongodb://one.example.org:27018,two.example.org/"
    assert settings["CIM_BATCH_SIZE"]["value"] == "321"
    assert settings["CIM_BATCH_SIZE"]["is_default"] is False
    assert settings["CIM_PREFETCH"]["is_default"] is True
    assert "hunter2" not in json.dumps(settings)


@pytest.mark.parametrize("command", [("settings",), ("run",), ("topology", "check"), ("publish", "-"), ("demo",)])
def test_a_wrong_setting_is_named_with_the_reason(command: tuple[str, ...]) -> None:
    finished = cim_worker(*command, CIM_PREFETCH="many", CIM_RABBITMQ_URL="http://someone:hunter2@host/")

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "CIM_PREFETCH" in finished.stderr
    assert "CIM_RABBITMQ_URL" in finished.stderr
    assert "hunter2" not in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    "command", [("settings",), ("validate", str(EXAMPLES[0])), ("topology", "check"), ("run",), ("demo",)]
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(command: tuple[str, ...], tmp_path: Path) -> None:
    log = tmp_path / "log"
    places = {"CIM_RABBITMQ_URL": "amqp://127.0.0.1:1/", "CIM_MONGODB_URI": "mongodb://127.0.0.1:1/"}

    with running(COMMAND, *command, log=log, CIM_RABBIT_URL="amqp://someone:hunter2@broker/", **places):
        wait_until(lambda: "CIM_RABBIT_URL" in log.read_text())

    named = next(line for line in log.read_text().splitlines() if "CIM_RABBIT_URL" in line)
    assert "CIM_RABBITMQ_URL" in named
    assert "hunter2" not in log.read_text()


@pytest.mark.parametrize("command", [("topology", "check"), ("topology", "apply"), ("publish", str(EXAMPLES[0]))])
def test_a_broker_that_is_not_there_is_named_by_host_and_port(command: tuple[str, ...]) -> None:
    finished = cim_worker(*command, CIM_RABBITMQ_URL="amqp://someone:hunter2@127.0.0.1:1/")

    assert finished.returncode == ExitCode.BROKER_UNREACHABLE
    assert "127.0.0.1:1" in finished.stderr
    assert "hunter2" not in finished.stderr + finished.stdout
    assert finished.stderr.count("\n") == 1


def test_a_store_that_is_not_there_is_named_by_host_and_port() -> None:
    finished = cim_worker("conversations", "list", CIM_MONGODB_URI="mongodb://someone:hunter2@127.0.0.1:1/")

    assert finished.returncode == ExitCode.STORE_UNREACHABLE
    assert "127.0.0.1:1" in finished.stderr
    assert "hunter2" not in finished.stderr + finished.stdout
    assert finished.stderr.count("\n") == 1


def test_validate_warns_of_probable_mistakes_and_rejects_for_them_only_when_told_to(tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    file.write_text(json.dumps({**VALID, "body": {"type": "plain"}}))

    lenient = cim_worker("validate", str(file), "--json")
    strict = cim_worker("validate", str(file), "--strict", "--json")
    table = cim_worker("validate", str(file))

    assert (lenient.returncode, strict.returncode) == (ExitCode.OK, ExitCode.REJECTED)
    assert printed_json(lenient)["with_warnings"] == 1
    (message,) = printed_json(lenient)["messages"]
    assert (message["result"], message["warnings"][0]["code"]) == ("valid", "misspelt_body_type")
    assert printed_json(strict)["rejected"] == 1
    assert "misspelt_body_type" in table.stdout
    assert "1 message: 1 valid, 0 rejected, 1 with warnings" in table.stdout
