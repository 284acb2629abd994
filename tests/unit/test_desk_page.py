"""The desk's page without a server: what of a message is shown, who is let in, and answers that are shared."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request

from tests.support.eventually import eventually_async
from worker.desk.errors import DeskError
from worker.settings import load_settings
from worker.web.desk.asked import split
from worker.web.desk.door import SESSION, VISIT, Caller, Door, DoorError, read_tokens
from worker.web.desk.fresh import Fresh
from worker.web.desk.payload import payload
from worker.web.desk.render import Page, render
from worker.web.desk.tasks import Task, Tasks


def test_lines_are_marked_by_number_bounded_and_printable() -> None:
    shown = payload('{\n  "a": 1,\n  "b": 2\n}', {2}, {2, 3}, is_masked=True)
    assert [line.mark for line in shown.lines] == ["", "fault", "hint", ""]
    assert payload("x\n" * 5000, (), is_masked=False).is_cut
    assert len(payload("y" * 100_000, (), is_masked=False).lines[0].text) < 3000
    assert "\x1b" not in payload("\x1b[2J", (), is_masked=False).lines[0].text


def test_templates_escape_everything_and_leave_out_what_is_not_visible() -> None:
    page = Page("problem.html", "<b>\u202e", problem="<script>alert(1)</script>")
    caller = Caller('"><script>', may_change=True)
    html = render(page, caller=caller, form='"', can_go_out=True, read_only=False).decode()
    assert "<script>alert" not in html
    assert '"><script>' not in html
    assert "\u202e" not in html


def request(host: str = "localhost:9465", client: str = "127.0.0.1", **headers: str) -> Request:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": host, **headers}.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": sent, "client": (client, 1), "scheme": "http"}
    return Request({**scope, "query_string": b"", "server": ("127.0.0.1", 9465)})


def door(user: str | None = "me", header: str | None = None) -> Door:
    return Door(user, {}, header, ("10.0.0.0/8",), frozenset({"localhost", "127.0.0.1", "::1"}))


@pytest.mark.parametrize(
    ("host", "is_meant"),
    [("localhost:9465", True), ("[::1]:1", True), ("evil.example:9465", False), ("", False), ("[", False)],
)
def test_on_loopback_only_its_names_are_answered(host: str, is_meant: bool) -> None:  # noqa: FBT001 - a parameter
    assert door().is_meant(request(host)) is is_meant
    assert door(user=None).is_meant(request(host))


def test_the_header_of_a_proxy_is_believed_only_from_it() -> None:
    guarded = door(user=None, header="X-User")
    assert guarded.caller(request(client="10.1.2.3", x_user="anna")) == Caller("anna", may_change=True)
    assert guarded.caller(request(client="11.1.2.3", x_user="anna")) is None
    assert guarded.caller(request(client="10.1.2.3", x_user=" ")) is None
    assert guarded.caller(request(client="unknown", x_user="anna")) is None


def test_a_form_is_ours_only_with_its_value_in_its_browser_from_our_site() -> None:
    ours = door()
    value = ours.form_value("visit")
    cookie = f"{VISIT}=visit"
    assert ours.is_ours(request(cookie=cookie), value)
    assert ours.is_ours(request(cookie=cookie, origin="http://localhost:9465"), value)
    assert not ours.is_ours(request(cookie=cookie, origin="null"), value)
    assert not ours.is_ours(request(cookie=cookie, sec_fetch_site="same-site"), value)
    assert not ours.is_ours(request(cookie=f"{VISIT}=other"), value)
    assert not ours.is_ours(request(cookie=cookie), "é")
    assert not ours.is_ours(request(), ours.form_value(""))
    assert not door().is_ours(request(cookie=cookie), value)  # another process


def test_a_token_file_that_is_wrong_is_refused_without_repeating_a_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for content in (
        "",
        "# nobody\n",
        "anna tooshort\n",
        "anna 12345678901234567890 writer\n",
        "12345678901234567890\n",
    ):
        file.write_text(content)
        with pytest.raises(DoorError) as refused:
            read_tokens(file)
        assert "1234567890" not in str(refused.value)
    with pytest.raises(DoorError, match="cannot be read"):
        read_tokens(Path("/nowhere"))


def test_an_address_that_others_reach_needs_a_token_file_or_a_proxy(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("anna anna-has-this-long-token\n")
    with pytest.raises(DoorError, match=r"CIM_DESK_HOST 0\.0\.0\.0 is reached by others: set CIM_DESK_TOKEN_FILE"):
        Door.of(load_settings(desk_host="0.0.0.0"))  # noqa: S104 - that is what is refused

    assert Door.of(load_settings(desk_host="localhost")).caller(request()) is not None
    for guard in ({"desk_token_file": str(tokens)}, {"desk_user_header": "X-User", "desk_trusted_proxies": ("::1",)}):
        guarded = Door.of(load_settings(desk_host="0.0.0.0", **guard))  # noqa: S104
        assert guarded.caller(request()) is None


def test_who_came_in_with_a_token_is_known_for_twelve_hours_or_until_they_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, token = tmp_path / "tokens", "anna-has-this-long-token"
    file.write_text(f"anna {token}\n")
    guarded = replace(door(user=None), tokens=read_tokens(file))
    assert guarded.come_in("another") is None
    first, second = (f"{SESSION}={guarded.come_in(token)}" for _ in range(2))
    assert guarded.caller(request(cookie=first)) == Caller("anna", may_change=True)
    assert guarded.caller(request(cookie=f"{SESSION}=guessed")) is None

    guarded.go_out(request(cookie=second))
    assert guarded.caller(request(cookie=second)) is None
    later = time.monotonic() + 12 * 3600 + 1
    with monkeypatch.context() as patched:
        patched.setattr("worker.web.desk.door.time.monotonic", lambda: later)
        assert guarded.caller(request(cookie=first)) is None


def test_a_filter_with_a_quote_that_does_not_end_is_refused() -> None:
    assert split("--where 'body.type=A B'") == ["--where", "body.type=A B"]
    with pytest.raises(DeskError, match="quote"):
        split("--where 'body")


async def test_many_who_ask_for_the_same_share_one_answer_until_it_is_forgotten() -> None:
    fresh, made = Fresh(), []

    async def make() -> int:
        made.append(1)
        await asyncio.sleep(0)
        return len(made)

    assert await asyncio.gather(*(fresh.get("key", 60, make) for _ in range(5))) == [1] * 5
    assert await fresh.get("key", 60, make) == 1
    fresh.clear()
    assert await fresh.get("key", 60, make) == 2
    fresh.forget("key")
    fresh.forget("another")
    assert await fresh.get("key", 60, make) == 3


async def test_while_a_new_answer_takes_long_the_one_before_is_shown_and_after_a_change_none_is() -> None:
    fresh, store_answers = Fresh(), asyncio.Event()
    store_answers.set()

    async def make() -> int:
        await store_answers.wait()
        return next(numbers)

    numbers = itertools.count(1)
    assert await fresh.get("key", 0, make) == 1
    store_answers.clear()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(fresh.get("key", 0, make) for _ in range(3))) == [1] * 3
    store_answers.set()
    assert await fresh.get("key", 0, make) == 2

    store_answers.clear()
    fresh.clear()
    waiting = asyncio.create_task(fresh.get("key", 0, make))
    await asyncio.wait([waiting], timeout=0.5)
    assert not waiting.done()
    store_answers.set()
    assert await waiting == 3


async def test_the_answer_before_is_there_though_another_was_made_anew_meanwhile() -> None:
    fresh, store_answers = Fresh(), asyncio.Event()

    async def quick() -> int:
        return 1

    async def slow() -> int:
        await store_answers.wait()
        return 2

    assert await fresh.get("causes", 0, quick) == 1
    await asyncio.sleep(0.01)
    assert await fresh.get("status", 0, quick) == 1
    async with asyncio.timeout(20):
        assert await fresh.get("causes", 0, slow) == 1
    store_answers.set()
    assert await fresh.get("causes", 0, slow) == 2


async def test_a_failed_answer_is_not_kept() -> None:
    fresh = Fresh()

    async def fail() -> int:
        raise OSError

    async def work() -> int:
        return 7

    with pytest.raises(OSError):  # noqa: PT011 - its type is all it has
        await fresh.get("key", 60, fail)
    assert await fresh.get("key", 60, work) == 7


async def test_too_many_operations_are_refused_and_the_end_of_the_server_stops_those_that_run() -> None:
    tasks = Tasks(on_end=lambda: None)

    async def wait(task: Task) -> str:
        await task.stop.wait()
        return "stopped in order"

    started = [tasks.start(Task("replay", "r", "c", {}, can_stop=True), wait) for _ in range(8)]
    with pytest.raises(DeskError, match="8 operations run already"):
        tasks.start(Task("plan", "p", "c", {}), wait)
    await tasks.close(5)
    assert {task.result for task in started} == {"stopped in order"}
    assert not tasks.running()


async def test_what_pages_show_is_made_anew_after_what_changes_letters_and_not_after_a_plan() -> None:
    ended: list[str] = []
    tasks = Tasks(on_end=lambda: ended.append("one"))

    async def work(_: Task) -> str:
        return "done"

    tasks.start(Task("plan", "p", "c", {}, changes=False), work)
    await eventually_async(lambda: not tasks.running())
    assert ended == []
    tasks.start(Task("discard", "d", "c", {}), work)
    await eventually_async(lambda: ended == ["one"])


async def test_a_bug_in_an_operation_is_shown_and_ends_it_alone() -> None:
    tasks = Tasks(on_end=lambda: None)

    async def fail(_: Task) -> None:
        raise KeyError

    task = tasks.start(Task("plan", "p", "c", {}, can_stop=True), fail)
    await tasks.close(5)
    assert not tasks.running()
    assert "KeyError" in task.problem
