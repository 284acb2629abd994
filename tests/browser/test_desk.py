"""The desk's page in a real Chromium: from the alert to the replayed group, by keyboard, on a phone, under attack.

Its pictures are those of deploy/desk.md (`PICTURES=1 make desk-test` writes them anew).
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, expect, sync_playwright

from tests.browser import chromium
from tests.support.desk_page import desk_page
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.services import Store

PICTURES = Path(__file__).parents[2] / "deploy" / "pictures"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = "</div></pre><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>\u202egpj.exe"
WIDE: ViewportSize = {"width": 1280, "height": 860}
TALL: ViewportSize = {"width": 1280, "height": 1240}
PHONE: ViewportSize = {"width": 390, "height": 844}


def message(
    message_id: str, sender: str = "call-recorder", text: str = "https://recordings/17", **header: Any
) -> bytes:
    who = {"id": sender, "type": "APP", "senderName": "Call recorder"}
    body = {"type": "PLAIN", "markdownText": text}
    return json.dumps({"id": message_id, "header": {"sender": who, **header}, "body": body}).encode()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium.find(), args=list(QUIET))
        yield launched
        launched.close()


@pytest.fixture
def world(vhost_url: str, store: Store, database: str, tmp_path: Path) -> World:
    made = World(vhost_url, store.uri, database, tmp_path)
    with ThreadPoolExecutor(1) as elsewhere:  # Playwright keeps an event loop on this thread
        elsewhere.submit(made.apply_topology).result()
    return made


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[str]:
    """Run workers and the page over fourteen letters of three causes; return the page's address."""
    settings = {
        "CIM_RABBITMQ_URL": world.amqp_url,
        "CIM_MONGODB_URI": world.mongodb_uri,
        "CIM_MONGODB_DATABASE": world.database,
        "CIM_RETRY_DELAYS": "1s",
    }
    with (
        world.pool(CIM_RECORD_DEAD_LETTERS="true", CIM_RECORD_INTERVAL_MS="100") as pool,
        desk_page(tmp_path / "desk.log", **settings) as page,
    ):
        pool.wait_for("consuming")
        world.publish(*(message(f"call-{number}", customer={"id": "u-17"}) for number in range(11)))
        world.publish(message("evil", text=HOSTILE, customer={"_id": 5, HOSTILE: HOSTILE}))
        world.publish(b'{"id": "half', b"{]")
        eventually(lambda: len(world.collection("dead_letters")) == 14)
        yield f"http://127.0.0.1:{page.port}"


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """Yield a page, and what it asked for or complained about that it must not."""
    context: BrowserContext = browser.new_context(**{"viewport": WIDE, **options})
    context.set_default_timeout(15_000)
    page, wrong = context.new_page(), []
    page.on("console", lambda line: wrong.append(line.text) if line.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    yield page, wrong
    context.close()


def picture(page: Page, name: str) -> None:
    if os.environ.get("PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png")


def open_letters(page: Page) -> Locator:
    return page.locator("#live div").filter(has_text="open letters").locator("dd")


def press_until(page: Page, key: str, name: str, most: int = 60) -> None:
    """Press *key* until what has the focus is called *name*."""
    for _ in range(most):
        page.keyboard.press(key)
        focused = page.evaluate("document.activeElement.innerText || document.activeElement.name || ''")
        if name in focused:
            return
    raise AssertionError(f"{name} is not reached with {key}")


def test_from_the_alert_to_the_replayed_group(browser: Browser, desk: str, world: World) -> None:
    with opened(browser) as (page, wrong):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(desk)
        expect(open_letters(page)).to_have_text("14")
        picture(page, "desk-causes")
        page.get_by_role("link", name="missing_anchor").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("11 missing_anchor")
        expect(page.locator(".hints")).to_contain_text("You sent header.customer.id. Did you mean _id?")
        expect(page.locator(".payload .fault")).to_have_text('  "header": {')
        expect(page.locator(".payload .hint")).to_contain_text('"id"')
        page.set_viewport_size(TALL)
        picture(page, "desk-letter")
        page.set_viewport_size(WIDE)

        page.get_by_role("button", name="Fix …").click()
        expect(page.get_by_label("Rename, old=new")).to_have_value("header.customer.id=header.customer._id")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#task")).to_contain_text("11 of them would not die again")
        picture(page, "desk-fix")
        page.get_by_label("Reason, for the audit").fill("the recorder wrote id instead of _id")
        page.get_by_role("button", name="Fix 11 letters").click()
        expect(page.locator("#task")).to_contain_text("edited")
        page.get_by_role("link", name="Back to the letters").click()

        page.get_by_label("Reason, for the audit").fill("messages corrected")
        page.get_by_role("button", name="All 11 …").click()
        expect(page.locator("#task")).to_contain_text("11 would not die again")
        picture(page, "desk-plan")
        page.get_by_role("button", name="Replay all 11").click()
        expect(page.locator("#task")).to_contain_text("now settled", timeout=40_000)
        picture(page, "desk-replayed")
        assert {f"call-{number}" for number in range(11)} <= world.stored_ids()

        page.get_by_role("link", name="Audit").click()
        expect(page.get_by_role("table")).to_contain_text("messages corrected")
        page.get_by_label("What became of a message").fill("call-3")
        page.keyboard.press("Enter")
        expect(page.locator(".timeline")).to_contain_text("stored (stand_alone")
        expect(page.locator(".timeline")).to_contain_text("as a replay of the letter")
        expect(page.locator(".timeline")).to_contain_text("became settled")
        picture(page, "desk-explain")
        assert not wrong
        assert {url.startswith((desk, "data:")) for url in asked} == {True}


def test_new_letters_appear_by_themselves(browser: Browser, desk: str, world: World) -> None:
    with opened(browser) as (page, wrong):
        page.goto(desk)
        expect(open_letters(page)).to_have_text("14")
        world.publish(message("later", sender=""))
        expect(open_letters(page)).to_have_text("15", timeout=30_000)
        expect(page.locator("#list")).to_contain_text("missing_sender_id", timeout=30_000)
        assert not wrong


def test_everything_is_reached_with_the_keyboard_alone(browser: Browser, desk: str, world: World) -> None:
    with opened(browser) as (page, _):
        page.goto(desk)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        press_until(page, "Tab", "missing_anchor")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("missing_anchor")
        press_until(page, "Tab", "Discard …")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Discard 11 letters")
        page.keyboard.type("not needed")
        press_until(page, "Tab", "Discard 11")
        page.keyboard.press("Enter")
        expect(page.locator("#task")).to_contain_text("discarded")
        statuses = [one["status"] for one in world.collection("dead_letters")]
        assert statuses.count("discarded") == 11


def test_a_phone_and_both_colour_schemes_show_all_of_it(browser: Browser, desk: str) -> None:
    for scheme in ("light", "dark"):
        with opened(browser, viewport=PHONE, color_scheme=scheme) as (page, _):
            page.goto(desk)
            page.get_by_role("link", name="missing_anchor").click()
            expect(page.locator("#live dl")).to_be_visible()
            for path in ("", "/letters", "/jobs", "/audit", "/explain?id=call-1", "/fix"):
                if path:
                    page.goto(desk + path)
                assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
                assert page.evaluate(_HIDDEN_AT_THE_SIDE) == [], path
                assert page.evaluate(_BROKEN_IDS) == [], path
            page.goto(desk)
            assert page.evaluate(_LOWEST_CONTRAST) >= 4.5
            if scheme == "dark":
                page.get_by_role("link", name="missing_anchor").click()
                picture(page, "desk-phone")


def test_hostile_payloads_are_shown_and_do_nothing(browser: Browser, desk: str, world: World) -> None:
    (letter,) = [one["_id"] for one in world.collection("dead_letters") if one["messageId"] == "evil"]
    with opened(browser) as (page, wrong):
        page.goto(f"{desk}/letters/{letter}")
        expect(page.locator(".payload")).to_contain_text("</div></pre><script>window.hacked=1</script>")
        page.get_by_role("button", name="Show values").click()
        shown = page.locator(".payload").inner_text()
        assert shown.count("window.hacked=2") == 3
        assert "\u202e" not in page.content()
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.scripts.length") == 1
        assert page.locator(".payload img, .payload script").count() == 0
        assert not wrong


def test_a_page_of_somebody_else_cannot_send_our_forms(browser: Browser, desk: str, world: World) -> None:
    with opened(browser) as (page, _), attacker(desk) as address:
        page.goto(desk)  # so that the browser has our cookie
        page.goto(address)
        page.get_by_role("button").click()
        expect(page.locator("body")).to_contain_text("this form was not made by this page")
        frame = page.goto(f"{address}frame")
        assert frame is not None
        assert page.frames[-1].url in {"chrome-error://chromewebdata/", "about:blank", ""}
    assert {one["status"] for one in world.collection("dead_letters")} == {"open"}


def test_it_works_without_scripts(browser: Browser, desk: str) -> None:
    with opened(browser, java_script_enabled=False) as (page, _):
        page.goto(desk)
        page.get_by_role("link", name="malformed_json").click()
        page.get_by_role("button", name="Plan", exact=True).click()
        eventually(lambda: page.reload() and "0 would not die again" in page.locator("#task").inner_text())
        expect(page.locator("#task")).to_contain_text("Of 2 letters, 0 would not die again")


@contextmanager
def attacker(desk: str) -> Iterator[str]:
    """Serve a page of another site that sends a form to the desk, or frames it."""

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            inside = '<input name="reason" value="x"><button>Win</button>'
            form = f'<form action="{desk}/discard" method="post">{inside}</form>'
            body = f'<iframe src="{desk}/"></iframe>' if self.path == "/frame" else form
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


_HIDDEN_AT_THE_SIDE = """() => [...document.querySelectorAll(".scroll")]
    .filter(one => one.scrollWidth > one.clientWidth).map(one => one.getAttribute("aria-label"))"""
_BROKEN_IDS = """() => [...document.querySelectorAll("td a code")].filter(one => one.getClientRects().length > 1)
    .map(one => one.textContent)"""
_LOWEST_CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = 21;
  for (const element of document.querySelectorAll('main *, header *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent) continue;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
    lowest = Math.min(lowest, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return lowest;
}"""
