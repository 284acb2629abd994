"""Deciding about letters without sending them: each command as somebody types it, on letters that are in the store."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.store.examples import letter
from tests.support.command import COMMAND, running
from tests.support.eventually import eventually
from tests.support.on_call import REASON, OnCall
from tests.support.terminal import on_terminal
from tests.support.worker_pool import World
from worker.mongo.client import connect
from worker.mongo.letters import LetterCollection

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store
    from worker.dead_letters.letter import LetterRecord

PERSONAL = "a very personal text"
MISSING = ("--code", "missing_anchor")


def message(message_id: str, **customer: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "header": {"sender": {"id": "app-1", "type": "APP"}, "customer": customer},
        "body": {"type": "PLAIN", "markdownText": PERSONAL},
    }


def missing_anchor(number: int, message_id: str) -> LetterRecord:
    """Return the letter of a message whose customer has no `_id`."""
    known = {"code": "missing_anchor", "stage": "validate", "origin_queue": "cim.ingress", "sender_id": "app-1"}
    body = json.dumps(message(message_id, id="customer-1")).encode()
    return letter(number, body, message_id=message_id, fingerprint="abcdef012345", **known)


FIRST = missing_anchor(1, "m-1")


def put(world: World, *letters: LetterRecord) -> None:
    async def insert() -> None:
        connected = connect(world.mongodb_uri, world.database)
        try:
            await LetterCollection(connected).insert(letters)
        finally:
            await connected.close()

    asyncio.run(insert())


@pytest.fixture
def on_call(vhost_url: str, store: Store, database: str, tmp_path: Path) -> OnCall:
    """Return who has three open letters: two of one cause, and one that is no JSON."""
    world = World(vhost_url, store.uri, database, tmp_path)
    put(world, FIRST, missing_anchor(2, "m-2"), letter(3, b"no json"))
    return OnCall(world)


def test_what_is_discarded_has_a_reason_leaves_a_trace_and_can_be_taken_back(on_call: OnCall) -> None:
    refused = on_call.run("discard", *MISSING, code=2)
    assert "say why: --reason" in refused.stderr
    assert "Give --yes to do it" in on_call.run("discard", *MISSING, *REASON, code=2).stderr
    on_call.run("discard", *MISSING, "--yes", *REASON, "--as", "anna")
    assert on_call.statuses() == {"discarded": 2, "open": 1}
    on_call.run("restore", FIRST.id, *REASON)
    assert on_call.statuses() == {"discarded": 1, "open": 2}

    newest, before, *_ = on_call.json("jobs")
    assert (newest["kind"], newest["reason"], newest["counts"]) == ("restore", REASON[1], {"restored": 1})
    assert (before["kind"], before["as"]) == ("discard", "anna")


def test_a_filter_for_letters_that_are_not_open_changes_no_letter_that_is(on_call: OnCall) -> None:
    on_call.run("discard", FIRST.id, *REASON)
    for command in (("discard",), ("replay",), ("fix", "--set", "body.x=1", "--apply")):
        refused = on_call.run(*command, "--status", "discarded", "--yes", *REASON, code=2).stderr
        assert "leave --status=discarded out, or open letters of another status again with `restore` first" in refused
    assert on_call.statuses() == {"discarded": 1, "open": 2}
    named = f"no letters: {FIRST.id}; of another status: 1 discarded (--status any)"
    assert on_call.run("list", FIRST.id).stdout == f"{named}\n"
    for look in (("export",), ("replay", *REASON)):
        assert named in on_call.run(look[0], FIRST.id, *look[1:], code=5).stderr


def test_what_a_command_would_not_follow_is_refused(on_call: OnCall) -> None:
    assert [one["code"] for one in on_call.json("--code", "missing_anchor")["causes"]] == ["missing_anchor"]
    for arguments, sentence in (
        (("--code", "missing_anchor", "list"), "write --code after list"),
        (("jobs", "--json", "show", "12345678"), "write --json after show"),
        (("replay", FIRST.id, "--resume", "12345678", "--limit", "1"), f"of its job: leave {FIRST.id} --limit out"),
    ):
        assert sentence in on_call.run(*arguments, code=2).stderr


def test_who_watches_stops_when_nobody_reads_any_more(on_call: OnCall) -> None:
    watching = on_call.start("watch", "--since", "4w")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("watching: ")
    watching.stdout.close()
    assert watching.wait(30) == 0


def test_who_watches_sees_every_letter_however_many_come_at_once(on_call: OnCall, tmp_path: Path) -> None:
    world, log, number = on_call.world, tmp_path / "watch.log", 450
    with running(COMMAND, "dead-letters", "watch", "--json", log=log, **on_call.variables):
        now = time.time_ns() // 1_000_000 + 60_000
        put(world, *[replace(missing_anchor(100 + one, f"n-{one}"), last_seen=now) for one in range(number)])
        eventually(lambda: len(log.read_text().splitlines()) == number, "every letter")


def test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down(
    on_call: OnCall, tmp_path: Path
) -> None:
    shown = on_call.run("show", FIRST.id).stdout + on_call.run("show", FIRST.id, "--json").stdout
    redacted = on_call.run("export").stdout
    assert PERSONAL not in shown + redacted
    assert [json.loads(line)["body"] for line in redacted.splitlines()] == [None] * 3
    assert on_call.world.collection("operator_actions") == []

    assert PERSONAL in on_call.run("show", FIRST.id, "--reveal").stdout
    [revealed] = [one for one in on_call.world.collection("operator_actions") if one["kind"] == "reveal"]
    assert (revealed["filter"], revealed["state"], revealed["counts"]) == (FIRST.id, "done", {"revealed": 1})
    exported = tmp_path / "letters.jsonl"
    exported.write_text(on_call.run("export", FIRST.id, "--reveal").stdout)
    assert PERSONAL in exported.read_text()
    assert [one["kind"] for one in on_call.world.collection("operator_actions")].count("export") == 1

    on_call.run("purge", FIRST.id, "--yes", *REASON)
    on_call.run("import", str(exported), *REASON)
    assert on_call.json("show", FIRST.id)["status"] == "open"
    assert "redacted" in on_call.run("import", "-", *REASON, stdin=redacted, code=2).stderr


def test_an_edit_is_saved_when_todays_code_takes_it_and_it_is_still_the_same_message(
    on_call: OnCall, tmp_path: Path
) -> None:
    file = tmp_path / "message.json"
    assert "that is no JSON" in on_call.run("edit", FIRST.id, "--file", "-", stdin="{", code=2).stderr
    file.write_bytes(FIRST.body)
    refused = on_call.run("edit", FIRST.id, "--file", str(file), code=6).stderr
    assert "it would die again: missing_anchor" in refused
    file.write_text(json.dumps({**message("m-1", _id="customer-1"), "id": "another"}))
    refused = on_call.run("edit", FIRST.id, "--file", str(file), code=6).stderr
    assert "id says whose message it is and is locked" in refused

    file.write_text(json.dumps(message("m-2", _id="customer-1")))
    saved = on_call.run("edit", missing_anchor(2, "m-2").id, "--file", str(file)).stdout
    assert '+      "_id": "customer-1"' in saved
    assert PERSONAL not in saved
    shown = on_call.run("show", missing_anchor(2, "m-2").id).stdout
    assert '"id": "<text of 10>"' in shown[shown.index("as it arrived, before it was edited:") :]

    editing = OnCall(on_call.world, EDITOR="""sed -i 's/"id":.*"customer-1"/"_id":"customer-1"/'""")
    edited = editing.run("edit", FIRST.id, "--yes").stdout
    assert '+      "_id": "customer-1"' in edited
    assert "saved; replayed now it would be stored (stand_alone)" in edited


def test_a_purge_deletes_for_good_and_only_what_was_typed(on_call: OnCall) -> None:
    assert "nothing was deleted" in on_call.run("purge", FIRST.id, *REASON, code=2).stderr
    asked = on_terminal(
        "dead-letters", "purge", FIRST.id, *REASON, columns=80, answers="purge 2\n", **on_call.variables
    )
    assert "This cannot be undone. Type 'purge 1'" in asked
    assert "nothing was deleted" in asked
    assert on_call.statuses() == {"open": 3}
    on_terminal("dead-letters", "purge", FIRST.id, *REASON, columns=80, answers="purge 1\n", **on_call.variables)
    assert f"there is no letter {FIRST.id}" in on_call.run("show", FIRST.id, code=5).stderr
    assert on_call.statuses() == {"open": 2}


def test_who_only_reads_changes_nothing(on_call: OnCall) -> None:
    careful = OnCall(on_call.world, CIM_READ_ONLY="true")
    for command in (("discard", FIRST.id), ("replay", FIRST.id)):
        assert "CIM_READ_ONLY is set" in careful.run(*command, *REASON, code=6).stderr
    assert "CIM_READ_ONLY is set" in careful.run("fix", FIRST.id, "--set", "body.x=1", "--reveal", code=6).stderr
    assert on_call.statuses() == {"open": 3}
