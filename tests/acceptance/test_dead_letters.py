"""The developer on call: find out why letters died, fix them, replay them; with the real commands, broker and store."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command import COMMAND, running
from tests.support.eventually import eventually
from tests.support.on_call import REASON, OnCall
from tests.support.terminal import on_terminal
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.services import Store

CHARACTERS = 2000


def message(message_id: str, **header: Any) -> dict[str, Any]:
    return {
        "id": message_id,
        "header": {"sender": {"id": "app-1", "type": "APP"}, "customer": {"_id": "customer-1"}, **header},
        "body": {"type": "PLAIN", "markdownText": "hello"},
    }


def encoded(*messages: dict[str, Any]) -> list[bytes]:
    return [json.dumps(one).encode() for one in messages]


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def recording(world: World, **variables: str) -> Any:
    return world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="200", **variables)


def test_a_letter_is_found_understood_fixed_and_replayed(world: World) -> None:
    misspelt = message("m-1")
    misspelt["header"]["customer"] = {"id": "customer-1"}
    on_call = OnCall(world)
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(*encoded(misspelt), b"no json")
        eventually(lambda: on_call.statuses().get("open") == 2)

        causes = {one["code"]: one for one in on_call.json()["causes"]}
        cause = causes["missing_anchor"]["handle"]
        assert causes["missing_anchor"]["is_new"]
        told = on_call.run("show", cause).stdout
        assert "header.customer.id" in told
        assert "hello" not in told
        assert "still_fails" in on_call.json("plan", cause)["predictions"]

        rename = ("--rename", "header.customer.id=header.customer._id")
        assert on_call.json("plan", cause, *rename)["storedBecause"] == {"stand_alone": 1}
        preview = on_call.run("fix", cause, *rename).stdout
        assert "1 would change, 1 of them would not die again" in preview
        on_call.run("fix", cause, *rename, "--apply", "--yes", "--reason", "publisher's typing error")
        done = on_call.json("replay", cause, "--yes", "--reason", "fixed")

    assert done["outcomes"] == {"settled": 1}
    assert world.stored("m-1") is not None
    assert on_call.statuses() == {"open": 1, "settled": 1}


def test_who_watches_sees_the_letters_of_the_filter_and_no_others(world: World, tmp_path: Path) -> None:
    on_call, log = OnCall(world), tmp_path / "watch.log"
    watch = (COMMAND, "dead-letters", "watch", "--where", "id=wanted")
    with recording(world) as pool, running(*watch, log=log, **on_call.variables) as watching:
        pool.wait_for("consuming")
        eventually(lambda: "watching: --where=id=wanted; Ctrl-C ends" in log.read_text())
        world.publish(b"no json", *encoded(message("another", customer={"id": "u"})))
        eventually(lambda: on_call.statuses().get("open") == 2)
        world.publish(*encoded(message("wanted", customer={"id": "u"})))
        eventually(lambda: "missing_anchor" in log.read_text())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    _, *shown = log.read_text().splitlines()
    assert [line.split()[-1] for line in shown] == ["wanted"]


def test_an_outages_letters_and_true_poison_are_told_apart_and_every_message_is_accounted_for(world: World) -> None:
    """Letters of a wrong limit, of a publisher's bug and of pure rubbish; killed half-way, and two people at once."""
    victims = [message(f"victim-{number}", note="x" * CHARACTERS) for number in range(60)]
    misspelt = [message(f"misspelt-{number}") for number in range(6)]
    for one in misspelt:
        one["header"]["customer"] = {"id": "customer-1"}
    rubbish = [b"rubbish %d" % number for number in range(4)]
    on_call = OnCall(world)
    with recording(world, CIM_MAX_MESSAGE_BYTES="1024") as pool:
        pool.wait_for("consuming")
        world.publish(*encoded(*victims, *misspelt), *rubbish)
        eventually(lambda: on_call.statuses().get("open") == 70, seconds=60)

    causes = {one["code"]: one for one in on_call.json()["causes"]}
    assert {code: one["letters"] for code, one in causes.items()} == {
        "message_too_large": 60,
        "missing_anchor": 6,
        "malformed_json": 4,
    }
    outage, poison = causes["message_too_large"]["handle"], causes["malformed_json"]["handle"]
    plan = on_call.json("plan")
    assert plan["predictions"] == {"would_store": 60, "still_fails": 10}

    with recording(world) as pool:
        pool.wait_for("consuming")
        stopped = on_call.run("replay", poison, "--ramp", "1,2", "--max-failures", "0", "--yes", *REASON, code=6)
        assert "1 of the last 1 letters died again, 0 are allowed; go on with" in stopped.stderr
        assert on_call.statuses()["died_again"] == 1

        killed = on_call.start("replay", outage, "--rate", "20", "--yes", *REASON)
        job = _job_that_sent(on_call, 10)
        killed.kill()
        killed.communicate()
        assert _job(on_call, job)["state"] == "interrupted"

        rename = ("--rename", "header.customer.id=header.customer._id", "--apply", "--yes")
        on_call.run("fix", causes["missing_anchor"]["handle"], *rename, *REASON)
        both = [on_call.start("replay", "--code", "missing_anchor", "--yes", *REASON) for _ in range(2)]
        resumed = on_call.json("replay", "--resume", job)
        assert resumed["state"] == "done"
        for command in both:
            command.communicate()

    assert on_call.statuses() == {"settled": 66, "died_again": 1, "open": 4}
    assert world.stored_ids() == {one["id"] for one in (*victims, *misspelt)}
    assert len(world.collection("ConversationActivities")) == 66
    replays = [one for one in on_call.json("jobs", "list") if one["kind"] == "replay"]
    assert sum(one["counts"].get("sent", 0) for one in replays) == 67
    lines = on_call.json("jobs", "show", job)["lines"]
    assert {line.split()[0] for line in lines} == {one["id"] for one in _settled(on_call, outage)}
    assert _died_twice(on_call, poison) == {"died_again", "open"}


def _settled(on_call: OnCall, cause: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = on_call.json("list", cause, "--status", "settled", "--limit", "1000")
    return found


def _died_twice(on_call: OnCall, cause: str) -> set[str]:
    """Return the statuses of a letter that died again and of the letter that it became."""
    (first,) = on_call.json("list", cause, "--status", "died_again")
    story = on_call.json("show", first["successor"])
    assert story["replays"] == 1
    return {one["status"] for one in story["lineage"]}


def _job(on_call: OnCall, job: str) -> dict[str, Any]:
    found: dict[str, Any] = on_call.json("jobs", "show", job)
    return found


def _job_that_sent(on_call: OnCall, number: int) -> str:
    """Return the id of the newest replay once it has sent so many letters."""

    def sent() -> str:
        jobs = [one for one in on_call.world.collection("operator_actions") if one["kind"] == "replay"]
        under_way = [one for one in jobs if one["state"] == "running" and one["counts"].get("sent", 0) >= number]
        return str(under_way[0]["_id"]) if under_way else ""

    return str(eventually(sent, "a replay under way"))


def test_a_replay_comes_from_whoever_published_it_first_and_a_stranger_gains_nothing_by_saying_so(
    world: World, url_of: Any
) -> None:
    publisher, worker, desk = url_of("publisher"), url_of("worker"), url_of("desk (`dead-letters`, `desk`)")
    user, operator = (url.split("//")[1].split(":")[0] for url in (publisher, desk))
    settings = {"CIM_RABBITMQ_URL": worker, "CIM_SENDER_USERS": f"{user}=app-1", "CIM_TRUSTED_USERS": operator}
    on_call = OnCall(world, CIM_RABBITMQ_URL=desk)
    outside = World(publisher, world.mongodb_uri, world.database, world.folder)
    own, forged = message("own"), message("forged")
    own["header"]["customer"] = {"id": "customer-1"}
    claims = {"cim-replay-of": "0" * 24, "cim-replay-job": "job", "cim-user-id": user}
    with recording(world, **settings) as pool:
        pool.wait_for("consuming")
        outside.publish(*encoded(own), exchange="cim.ingress", key="k", user_id=user)
        outside.publish(*encoded(forged), exchange="cim.ingress", key="k", headers=claims)
        eventually(lambda: on_call.statuses().get("open") == 2)
        letters = {one["messageId"]: one for one in on_call.json("list")}
        assert (letters["own"]["userId"], letters["forged"]["code"]) == (user, "sender_not_allowed")

        rename = ("--rename", "header.customer.id=header.customer._id", "--apply", "--yes")
        on_call.run("fix", letters["own"]["id"], *rename, *REASON)
        assert on_call.json("replay", letters["own"]["id"], *REASON)["outcomes"] == {"settled": 1}
        assert on_call.json("replay", letters["forged"]["id"], "--yes", *REASON)["outcomes"] == {"died_again": 1}
    assert world.stored_ids() == {"own"}


def test_a_conversation_event_goes_back_to_its_exchange_and_its_outcome_to_its_letter(world: World) -> None:
    on_call = OnCall(world)
    event = {"id": "e-1", "name": "TOPIC_STATE_CHANGED", "timestamp": 1_760_000_000_000, "data": {"state": "ACTIVE"}}
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(json.dumps(event).encode(), exchange="cim.conversation-events", key="TOPIC_STATE_CHANGED")
        eventually(lambda: on_call.statuses().get("open") == 1)
        (letter,) = on_call.json("list")
        done = on_call.json("replay", letter["id"], "--yes", *REASON)

        assert (letter["originQueue"], done["outcomes"]) == ("cim.conversation-events", {"died_again": 1})
        eventually(lambda: on_call.statuses().get("open") == 1)
        (successor,) = on_call.json("list")
    assert (successor["replayOf"], successor["originQueue"]) == (letter["id"], "cim.conversation-events")


def test_what_is_refused_of_an_edit_can_be_edited_again_and_an_editor_that_does_not_start_is_named(
    world: World, tmp_path: Path
) -> None:
    on_call = OnCall(world)
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(*encoded(message("m-1", customer={"id": "customer-1"})))
        letter = eventually(lambda: on_call.json("list"))[0]["id"]

    clumsy = tmp_path / "clumsy editor"
    clumsy.write_text(
        """#!/bin/sh
        [ -e "$0.before" ] && exec sed 's/"id":.*"customer-1"/"_id":"customer-1"/' "$0.before" > "$1"
        cp "$1" "$0.before"; echo '{' > "$1"
        """
    )
    clumsy.chmod(0o700)
    terminal = {**on_call.variables, "EDITOR": f"'{clumsy}'"}
    asked = on_terminal("dead-letters", "edit", letter, columns=80, answers="y\nn\n", **terminal)
    words = (
        "that is no JSON",
        "Edit it again?",
        '+      "_id": "customer-1"',
        "Save the message",
        "nothing was changed",
    )
    places = [asked.find(word) for word in words]
    assert places == sorted(places)
    assert places[0] >= 0
    for broken_editor in ("false", "no-such-editor", "sed 's"):
        refused = OnCall(world, EDITOR=broken_editor).run("edit", letter, code=2).stderr
        assert f"the editor {broken_editor!r} did not work" in refused
    assert on_call.json("show", letter)["revision"] == 0


def test_letters_that_no_json_writer_takes_hold_up_nobody(world: World) -> None:
    on_call = OnCall(world)
    head = '{"id": "m-%s", "header": {"sender": {"id": "app-1", "type": "APP"}}, "body": {"type": "PLAIN", "x": %s}}'
    hostile = ["[" * 900 + "]" * 900, '"\\ud800"', '"\\u202e\\u009b31m"']
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(*((head % (number, value)).encode() for number, value in enumerate((*hostile, "1"))))
        letters = eventually(lambda: found if len(found := on_call.json("list")) == 4 else [])
    for shown in ((), ("--reveal",)):
        exported = on_call.run("export", *shown).stdout
        assert len(exported.splitlines()) == 4
        assert not {"\u202e", "\u009b"} & set(exported)
    for one in letters:
        on_call.run("show", one["id"], "--reveal")
    set_ = ("--set", 'header.customer={"_id": "u"}', "--apply", "--yes", *REASON)
    assert on_call.json("fix", *set_)["counts"] == {"edited": 2}


def test_a_customer_is_erased_and_the_audit_does_not_name_them(world: World) -> None:
    on_call = OnCall(world)
    customer = "the-customer-to-forget"
    with recording(world) as pool:
        pool.wait_for("consuming")
        kept = message("kept")
        dead = message("dead", customer={"_id": customer}, timestamp="never")
        other = message("other", customer={"_id": "another"}, timestamp="never")
        world.publish(*encoded(message("stored", customer={"_id": customer}), dead, kept, other))
        eventually(lambda: on_call.statuses().get("open") == 2 and world.stored_ids() == {"stored", "kept"})
    assert on_call.json("list", "--customer", customer)[0]["messageId"] == "dead"
    done = on_call.run("purge", "--customer", customer, "--activities", "--yes", "--reason", "request 17")
    assert "1 letter and 1 activity would be deleted for good" in done.stdout
    assert "The journal cim.outcomes holds ids only" in done.stdout
    assert (world.stored_ids(), on_call.statuses()) == ({"kept"}, {"open": 1})
    done = on_call.run("purge", "--customer", "another", "--activities", "--yes", "--reason", "request 18", "--json")
    assert json.loads(done.stdout)["kind"] == "purge"
    assert "The journal cim.outcomes holds ids only" in done.stderr
    assert on_call.statuses() == {}
    assert customer not in repr(world.collection("operator_actions"))


def test_what_cannot_be_is_one_sentence_with_the_fix_and_an_exit_code(world: World) -> None:
    on_call = OnCall(world)
    assert on_call.run().stdout.startswith("no letters: all open letters")
    for arguments, code, sentence in (
        (("list", "--status", "opne"), 2, "there is no status 'opne', did you mean 'open'"),
        (("show", "abcd"), 5, "'abcd' is no letter and no cause; see `cim-worker dead-letters groups`"),
        (("show", "0" * 24), 5, f"there is no letter {'0' * 24}"),
        (("replay", "--resume", "12345678"), 5, "there is no job or action 12345678"),
        (("replay",), 2, "say why: --reason"),
        (("replay", *REASON), 5, "no letters: all open letters"),
        (("fix", "--set", "body.x=y"), 2, "the value 'y' is no JSON; for a text write --set 'body.x=\"y\"'"),
    ):
        done = on_call.run(*arguments, code=code)
        assert sentence in done.stderr, arguments
        assert len(done.stderr.splitlines()) == 1, arguments


def test_ctrl_c_ends_a_replay_in_order_and_says_how_to_go_on(world: World) -> None:
    on_call = OnCall(world)
    with recording(world) as pool:
        pool.wait_for("consuming")
        world.publish(*[b"rubbish %d" % number for number in range(30)])
        eventually(lambda: on_call.statuses().get("open") == 30)
    running = on_call.start("replay", "--rate", "10", "--yes", *REASON)
    job = _job_that_sent(on_call, 4)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=30)

    assert running.returncode == 0
    assert f"go on with: cim-worker dead-letters replay --resume {job}" in output
    assert _job(on_call, job)["state"] == "cancelled"
    assert f"job {job} is not running: it is cancelled" in on_call.run("jobs", "cancel", job, code=6).stderr
    statuses = on_call.statuses()
    assert "sending" not in statuses
    assert statuses["replayed"] + statuses["open"] == 30
    assert world.depth("cim.ingress") == statuses["replayed"]
