"""What `cim-worker validate` tells a publisher: what, where, what was meant, and where it would go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command import cim_worker, printed_json
from tests.support.terminal import on_terminal
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Store

GOOD: dict[str, Any] = {
    "id": "m-1",
    "header": {"sender": {"id": "app-1", "type": "APP"}, "conversationId": "c-1"},
    "body": {"type": "PLAIN", "markdownText": "a secret text"},
}
BAD = """{
  "id": "m-2",
  "header": {"sender": {"id": "app-1", "type": "APP"}, "conversationId": {"secret": 1}},
  "body": {"type": "DELIVERYNOTIFICATION", "messageId": "m-1", "status": "delivered"}
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good message, and behind it a bad one."""
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(GOOD) + "\n" + BAD)
    return file


def test_each_problem_is_shown_at_its_place_in_the_file_with_a_caret(file: Path) -> None:
    shown = cim_worker("validate", "--format", "text", file)

    assert shown.returncode == ExitCode.REJECTED
    assert shown.stdout.splitlines() == [
        f"{file}: valid",
        f"{file}:4:74: error: wrong_type at /header/conversationId in message 2",
        "  expected: A string.",
        "  found:    an object",
        '  4 |   "header": {"sender": {"id": "…", "type": "…"}, "conversationId": {"secret": …}},',
        "    |                                                                    ^",
        f"{file}:5:74: error: invalid_value at /body/status in message 2",
        "  expected: One of 'DELIVERED', 'READ', 'CONNECTED' or 'FAILED'.",
        "  found:    a string; did you mean DELIVERED?",
        '  5 |   "body": {"type": "…", "messageId": "…", "status": "…"}',
        "    |                                                     ^^^",
        "2 messages: 1 valid, 1 rejected",
    ]


def test_a_terminal_shows_the_caret_and_a_pipe_rows(file: Path) -> None:
    rows = [line.split("\t") for line in cim_worker("validate", file).stdout.splitlines()[:-1]]

    assert "    |                                                     ^^^\n" in on_terminal(
        "validate", str(file), columns=120
    )
    assert rows[0] == ["file", "index", "result", "code", "pointer", "expected", "found", "line", "column"]
    assert rows[2][1:5] + rows[2][6:] == [
        "2",
        "rejected",
        "wrong_type",
        "/header/conversationId",
        "an object",
        "4",
        "74",
    ]


def test_a_build_reads_json(file: Path) -> None:
    shown = printed_json(cim_worker("validate", "--json", file))

    assert {key: shown[key] for key in ("valid", "rejected", "with_warnings")} == {
        "valid": 1,
        "rejected": 1,
        "with_warnings": 0,
    }
    good, bad = shown["messages"]
    assert (good["line"], good["message_id"], good["sender_id"]) == (1, "m-1", "app-1")
    assert len(good["event_id"]) == 24
    assert bad["problems"][1] == {
        "code": "invalid_value",
        "pointer": "/body/status",
        "expected": "One of 'DELIVERED', 'READ', 'CONNECTED' or 'FAILED'.",
        "found": "a string",
        "did_you_mean": "DELIVERED",
        "line": 5,
        "column": 74,
        "stage": "validate",
    }


def test_github_shows_findings_beside_the_lines_of_a_file(file: Path) -> None:
    lines = cim_worker("validate", "--format", "github", file).stdout.splitlines()

    assert lines[0] == (
        f"::error file={file},line=4,col=74,title=wrong_type::/header/conversationId: "
        "expected: A string. Found: an object."
    )
    assert lines[-1] == "2 messages: 1 valid, 1 rejected"


def test_where_a_message_would_go_is_asked_of_the_registry(
    tmp_path: Path, store: Store, documents: Database[dict[str, Any]]
) -> None:
    now = 1_760_000_000_000
    documents["conversations"].insert_many(
        [
            {"_id": "c-live", "state": "ACTIVE", "customerId": "u-1", "channelSessionIds": ["s-1"], "updatedAt": now},
            {"_id": "c-over", "state": "CLOSED", "customerId": "u-2", "channelSessionIds": [], "updatedAt": now},
        ]
    )
    # A hundred times as many: the registry is asked about so many at a time.
    anchors: list[dict[str, Any]] = [
        {"conversationId": "c-live", "customer": {"_id": "u-2"}},
        {"channelSessionId": "s-none"},
        {"conversationId": "c-over"},
        {"customer": {"_id": "u-1"}},
        {"conversationId": "c-new"},
        {},
    ] * 100
    file = tmp_path / "messages.json"
    sender = {"sender": {"id": "app-1", "type": "APP"}}
    file.write_text(json.dumps([{**GOOD, "header": {**sender, **one}} for one in anchors]))
    places = {"CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": documents.name}

    routes = [
        one.get("route")
        for one in printed_json(cim_worker("validate", "--route", "--json", file, **places))["messages"]
    ]
    table = cim_worker("validate", "--route", file, **places).stdout

    assert routes[0] == {
        "destination": "conversation",
        "exchange": "conversation.c-live",
        "conversation_id": "c-live",
        "state": "ACTIVE",
        "stored_because": None,
        "if_nobody_listens": "nobody_listens",
        "event_name": "THIRD_PARTY_ACTIVITY",
        "contradicting_anchors": ["customer"],
    }
    assert [one["stored_because"] for one in routes[1:4]] == ["unknown_session", "closed", "stand_alone"]
    assert (routes[4]["exchange"], routes[4]["if_nobody_listens"]) == ("conversation.c-new", "unknown_conversation")
    assert routes[5] is None
    assert routes == routes[:6] * 100
    assert "\tconversation.c-live\tthe conversation is ACTIVE; stored if no queue is bound there\t" in table


def test_without_a_registry_the_route_is_unknown_and_the_address_is_named(file: Path) -> None:
    finished = cim_worker(
        "validate", "--route", file, CIM_MONGODB_URI="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"
    )

    assert finished.returncode == ExitCode.STORE_UNREACHABLE
    assert "127.0.0.1:1" in finished.stderr
