"""`cim-worker desk`, the real command, asked over HTTP: who is let in, what is refused, and the way to a replay."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import typer
import typer.exceptions

from tests.support.command import cim_worker
from tests.support.desk_page import Browser, desk_page
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from worker.cli.application import app
from worker.desk.edit import parse_rules
from worker.desk.errors import DeskError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.services import Store

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(2)>\u202egpj.exe"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is to be guarded


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    body = {"type": "PLAIN", "markdownText": HOSTILE}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": body}).encode()


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    made.apply_topology()
    return made


def settings(world: World, **variables: str) -> dict[str, str]:
    return {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_MONGODB_TIMEOUT_MS": "3000",
        "CIM_RETRY_DELAYS": "1s",
        **variables,
    }


def is_understood(command: str) -> bool:
    """Tell whether the command line takes *command* and all that it needs is there, without running it."""
    try:
        program, *words = shlex.split(command)
    except ValueError as error:
        print(command, error)
        return False
    found: Any = typer.main.get_command(app)
    try:
        context = found.make_context(program, words, resilient_parsing=False)
        while getattr(found, "commands", None) and context._protected_args + context.args:
            name, found, words = found.resolve_command(context, context._protected_args + context.args)
            context = found.make_context(name, words, parent=context)
    except typer.exceptions.TyperException as error:
        print(command, error)
        return False
    return program == "cim-worker" and _is_complete(command, context.params)


def _is_complete(command: str, given: dict[str, Any]) -> bool:
    """Tell whether a command that changes letters says why, and whether its rules can be read."""
    verb = command.split()[2:3]
    changes = verb in (["discard"], ["restore"]) or given.get("apply") or (verb == ["replay"] and not given["resume"])
    if changes and not given["reason"].strip():
        print(command, "does not say why")
        return False
    set_, unset, rename = (given.get(name) or [] for name in ("set_", "unset", "rename"))
    if (set_ or unset or rename) and set_ != ["PATH=JSON"]:
        try:
            parse_rules(set_=set_, unset=unset, rename=rename)
        except DeskError as error:
            print(command, error)
            return False
    return True


def test_letters_are_found_fixed_planned_and_replayed_in_the_browser(  # noqa: PLR0915 - one way from end to end
    world: World, tmp_path: Path, url_of: Callable[[str], str]
) -> None:
    on_call = url_of("desk (`dead-letters`, `desk`)")
    recording = {"CIM_RECORD_DEAD_LETTERS": "true", "CIM_RECORD_INTERVAL_MS": "100"}
    trusting = {"CIM_TRUSTED_USERS": str(urlsplit(on_call).username)}
    desk = settings(world, CIM_RABBITMQ_URL=on_call)
    with world.pool(**recording, **trusting) as pool, desk_page(tmp_path / "desk.log", **desk) as browser:
        pool.wait_for("consuming")
        world.publish(*(message(f"call-{number}", customer={"id": HOSTILE}) for number in range(12)), b"{")
        eventually(lambda: len(world.collection("dead_letters")) == 13)
        causes = browser.get("/")
        seen = [causes]
        assert "13 letters" in causes.words
        anchorless = [one for one in world.collection("dead_letters") if one["code"] == "missing_anchor"]
        (handle,) = {one["fingerprint"][:4] for one in anchorless}
        cause = browser.get(f"/causes?name={handle}")
        assert "12 missing_anchor" in cause.words
        assert "You sent header.customer.id . Did you mean _id?" in cause.words
        assert f"cim-worker dead-letters plan {handle}" in cause.words
        assert "alert(1)" not in cause.text  # masked
        (letter,) = [one["_id"] for one in anchorless if one["messageId"] == "call-3"]
        revealed = browser.send(f"/letters/{letter}/reveal", cause.form("/plan"))
        assert "alert(1)" in revealed.words
        assert "<script>alert" not in revealed.text
        assert "<img" not in revealed.text
        assert "\u202e" not in revealed.text
        alone = browser.get(f"/causes?name={letter}")
        assert (alone.path, alone.form("/replay")["name"]) == (f"/letters/{letter}", letter)
        edit = f"/letters/{letter}/edit"
        clumsy = {**browser.get(edit).form(edit), "text": "{", "reason": "typed in the dark"}
        again = browser.send(edit, clumsy)
        assert (again.status, "that is no JSON" in again.words, "{</textarea>" in again.text) == (400, True, True)
        assert again.form(edit) == {name: value for name, value in clumsy.items() if name != "text"}
        assert [one["kind"] for one in world.collection("operator_actions")].count("reveal") == 2

        plan = browser.ended(browser.send("/plan", cause.form("/plan")))
        assert "Of 12 letters, 0 would not die again, 12 would" in plan.words

        fix = browser.get(f"/fix?name={handle}&rename=header.customer.id%3Dheader.customer._id")
        misspelt = browser.send("/fix/preview", {**fix.form("/fix/preview"), "set": "body.x=y"})
        assert "the value 'y' is no JSON" in misspelt.words
        assert "body.x=y</textarea>" in misspelt.text
        rules = {"rename": "header.customer.id=header.customer._id", "set": 'body.markdownText="it\'s  mended"'}
        fields = {**fix.form("/fix/preview"), **rules}
        preview = browser.ended(browser.send("/fix/preview", fields))
        assert "these rules change 12; 12 of them would not die again" in preview.words
        fixed = browser.ended(browser.send("/fix", {**preview.form("/fix"), "reason": "renamed"}))
        assert "edited 12" in fixed.words

        one = browser.send("/replay", {**cause.form("/replay"), "number": "1", "reason": "a first one"})
        assert "sent 1 now settled 1" in browser.ended(one).words
        asked = browser.send("/replay", {**cause.form("/replay"), "number": "all", "reason": "the rest"})
        plan = browser.ended(asked)
        assert "Of 11 letters, 11 would not die again" in plan.words
        fields = {**plan.form("/replay"), "number": "all", "ramp": "1", "rate": "4"}
        running = browser.send("/replay", fields)
        browser.send(f"{running.path}/stop", running.form(f"{running.path}/stop"))
        stopped = browser.ended(running)
        assert "Cancelled: stopped by hand" in stopped.words
        (job,) = re.findall(r'href="(/jobs/\w+)"', stopped.text)
        resumed = browser.send(f"{job}/resume", browser.get(job).form(f"{job}/resume"))
        assert "sent 11 now settled 11" in browser.ended(resumed).words

        discard = browser.get("/discard?q=--code+malformed_json")
        assert "Discard 1 letter" in discard.words
        discarded = browser.ended(browser.send("/discard", {**discard.form("/discard"), "reason": "it's rubbish"}))
        assert "discarded 1" in discarded.words
        assert "No open letters" in browser.get("/list?again").words
        assert len(world.stored_ids()) == 12

        jobs = browser.get("/jobs")
        again = browser.get("/causes?q=--status+discarded")
        assert "Only open letters can be replayed, fixed or discarded." in again.words
        assert not [path for path in ("/replay", "/discard", "/fix") if f'action="{path}"' in again.text]
        for path in ("/replay", "/discard"):
            fields = {**again.form("/restore"), "reason": "x", "number": "all", "plan": "x"}
            assert "leave --status=discarded out" in browser.send(path, fields).words
        restored = browser.ended(browser.send("/restore", {**again.form("/restore"), "reason": "it's needed"}))
        assert "restored 1" in restored.words
        seen += [
            discarded,
            again,
            alone,
            restored,
            cause,
            plan,
            preview,
            fixed,
            discard,
            jobs,
            browser.get(job),
            browser.get("/letters?q=--status+any"),
        ]
        seen += [browser.get(f"/letters/{letter}"), browser.get("/explain?id=call-3")]
        commands = set().union(*(page.commands for page in seen))
        assert len(commands) > 15
        assert not [command for command in commands if not is_understood(command)]
        assert jobs.words.count("done") == 4
        assert "the rest" in browser.get("/audit").words
        assert "reveal" in browser.get("/audit").words
        story = browser.get("/explain?id=call-3").words
        assert "died as the letter" in story
        assert "stored (stand_alone" in story
        assert browser.get("/explain?id=nobody-knows").words.count("Nothing is known") == 1
        assert "lag 0" in browser.get("/live").words


def test_what_is_forged_misspelt_or_not_allowed_is_refused_and_changes_nothing(world: World, tmp_path: Path) -> None:
    with world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="100") as pool:
        pool.wait_for("consuming")
        world.publish(message("1"), message("2"))
        eventually(lambda: len(world.collection("dead_letters")) == 2)
        pool.signal()
        assert pool.wait() == 0
    with desk_page(tmp_path / "desk.log", **settings(world)) as browser:
        page = browser.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (page.headers["x-content-type-options"], page.headers["cache-control"]) == ("nosniff", "no-store")
        assert not [text for text in ("http://", "https://", "//cdn", "style=", "onclick") if text in page.text]
        fields = {**page.form("/replay"), "number": "all", "reason": "x", "plan": "x"}
        forged = [
            browser.send("/replay", {**fields, "form": ""}),
            browser.send("/replay", {**fields, "form": secrets.token_hex(32)}),
            browser.send("/replay", fields, Origin="http://evil.example"),
            browser.send("/replay", fields, Sec_Fetch_Site="cross-site"),
            browser.send("/discard", {"form": fields["form"], "reason": "x"}, Sec_Fetch_Site="same-site"),
            Browser(browser.port).send("/replay", fields),
        ]
        assert [answer.status for answer in forged] == [403] * 6
        assert browser.get("/", Host="evil.example").status == 421
        assert browser.get("/causes?q=--codde+x").status == 400
        assert "did you mean 'code'" in browser.get("/causes?q=--codde+x").words
        assert browser.get("/causes?name=ffff").status == 404
        assert browser.get("/letters/000000000000000000000000").status == 404
        assert browser.get("/nowhere").status == 404
        assert browser.get("/assets/..%2Fapp.py").status == 404
        assert browser.once("POST", "/letters").status == 405
        assert browser.send("/discard", {**page.form("/plan"), "reason": " "}).status == 400
        assert browser.send("/fix", {**page.form("/plan"), "reason": "x", "set": 'id="y"'}).status == 400
        assert {one["status"] for one in world.collection("dead_letters")} == {"open"}
    with desk_page(tmp_path / "read-only.log", **settings(world, CIM_READ_ONLY="true")) as browser:
        page = browser.get("/")
        assert "You may look, and change nothing here" in page.words
        assert browser.send("/discard", {**page.form("/plan"), "reason": "x"}).status == 409
        letter = world.collection("dead_letters")[0]["_id"]
        assert browser.send(f"/letters/{letter}/reveal", page.form("/plan")).status == 409
        assert "would die again for the same reason" in browser.get(f"/letters/{letter}").words
        assert {one["status"] for one in world.collection("dead_letters")} == {"open"}
    assert not world.collection("operator_actions")


def _asked_for_a_body_of(browser: Browser, size: int) -> int:
    """Return the status for a stranger's form of which nothing but its size was sent."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=10)
    try:
        connection.putrequest("POST", "/discard")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_others_come_in_with_a_token_or_through_a_proxy_that_is_trusted(world: World, tmp_path: Path) -> None:
    open_to_all = cim_worker("desk", **settings(world, CIM_DESK_HOST=EVERYWHERE))
    assert open_to_all.returncode == 2
    assert "CIM_DESK_TOKEN_FILE" in open_to_all.stderr
    tokens = tmp_path / "tokens"
    anna, bert = secrets.token_hex(16), secrets.token_hex(16)
    tokens.write_text(f"# who may come in\nanna {anna}\nbert {bert} read-only\n")
    with desk_page(
        tmp_path / "tokens.log", **settings(world, CIM_DESK_HOST=EVERYWHERE, CIM_DESK_TOKEN_FILE=str(tokens))
    ) as browser:
        assert browser.get("/").path == "/login"
        assert browser.once("GET", "/live", HX_Request="true").status == 401
        login = browser.get("/login")
        assert browser.send("/login", {**login.form("/login"), "token": "wrong"}).status == 403
        assert browser.send("/login", {"token": anna}).status == 403
        assert browser.send("/login", {**login.form("/login"), "token": "x" * 100_000}).status == 403
        assert browser.send("/login", {"form": "é"}).status == 403
        assert _asked_for_a_body_of(browser, 16 * 1024 * 1024) == 401
        page = browser.send("/login", {**login.form("/login"), "token": anna})
        assert (page.status, "anna" in page.words, "read-only" in page.words) == (200, True, False)
        assert browser.get("/", Host="desk.example").status == 200
        assert browser.send("/logout", page.form("/logout")).path == "/login"
        assert browser.get("/").path == "/login"
        reader = browser.send("/login", {**browser.get("/login").form("/login"), "token": bert})
        assert "read-only" in reader.words
        assert browser.send("/discard", {**reader.form("/logout"), "reason": "x"}).status == 409
    assert anna not in (tmp_path / "tokens.log").read_text()
    behind = settings(world, CIM_DESK_HOST=EVERYWHERE, CIM_DESK_USER_HEADER="X-Forwarded-User")
    with desk_page(tmp_path / "proxy.log", **behind) as browser:
        assert browser.get("/").status == 401
        assert "carla" in browser.get("/", X_Forwarded_User="carla").words
    with desk_page(tmp_path / "far.log", **behind, CIM_DESK_TRUSTED_PROXIES="10.0.0.0/8") as browser:
        assert browser.get("/", X_Forwarded_User="carla").status == 401
    tokens.write_text("anna short\n")
    refused = cim_worker("desk", **settings(world, CIM_DESK_TOKEN_FILE=str(tokens)))
    assert (refused.returncode, "line 1" in refused.stderr, "short" in refused.stderr) == (2, True, False)


def test_broker_or_store_away_is_said_on_the_page(world: World, tmp_path: Path) -> None:
    nowhere = settings(world, CIM_RABBITMQ_URL="amqp://127.0.0.1:9/", CIM_MONGODB_URI="mongodb://127.0.0.1:9/")
    with desk_page(tmp_path / "desk.log", **nowhere) as browser:
        page = browser.get("/")
        assert page.status == 503
        assert "store or broker cannot be asked: it does not answer" in page.words
        assert "broker:" in browser.get("/live").words
