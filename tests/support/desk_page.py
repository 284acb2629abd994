"""The desk's page as a browser without scripts sees it: cookies are kept, forms are found and sent."""

from __future__ import annotations

import html
import http.client
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from tests.support.command import COMMAND, running, wait_until
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TIMEOUT = 40.0
_REDIRECTS = {301, 302, 303, 307, 308}


class Answer(NamedTuple):
    """What the page answered."""

    status: int
    headers: dict[str, str]
    text: str
    path: str
    """Where it was found at last."""

    @property
    def words(self) -> str:
        """The text without markup, blanks made one."""
        shown = re.sub(r"<(script|style)\b.*?</\1>", " ", self.text, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).split())

    @property
    def commands(self) -> set[str]:
        """The commands that the page says do the same."""
        shown = re.findall(r'class="same".*?<code>(.*?)</code>', self.text, re.DOTALL)
        return set(map(html.unescape, shown))

    def form(self, action: str) -> dict[str, str]:
        """Return the fields of the first form that goes to *action*."""
        parser = _Forms(action)
        parser.feed(self.text)
        assert parser.fields is not None, f"no form for {action} in {self.path}: {self.words[:300]}"
        return parser.fields


class _Forms(HTMLParser):
    def __init__(self, action: str) -> None:
        super().__init__()
        self._action = action
        self._inside = False
        self.fields: dict[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form" and self.fields is None and values.get("action") == self._action:
            self._inside, self.fields = True, {}
        elif self._inside and tag == "input" and values.get("name") and values.get("type") != "checkbox":
            assert self.fields is not None
            self.fields[str(values["name"])] = values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


class Browser:
    """One browser, on one page."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def get(self, path: str, **headers: str) -> Answer:
        return self._follow("GET", path, None, headers)

    def send(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        return self._follow("POST", path, urlencode(fields), headers)

    def once(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        """Ask without following where the answer leads."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie") or ():
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, text, path)

    def ended(self, answer: Answer) -> Answer:
        """Wait until the operation that *answer* shows has ended; return its page then."""
        assert answer.path.startswith("/tasks/"), (answer.status, answer.path, answer.words[:400])
        shown: list[Answer] = []

        def is_over() -> bool:
            shown[:] = [self.get(answer.path + "?part=1")]
            return "hx-trigger" not in shown[0].text

        eventually(is_over)
        return shown[0]

    def _follow(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        answer = self.once(method, path, body, **headers)
        while answer.status in _REDIRECTS:
            parts = urlsplit(urljoin(path, answer.headers["location"]))
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            answer = self.once("GET", path, **headers)
        return answer


@contextmanager
def desk_page(log: Path, **variables: str) -> Iterator[Browser]:
    """Run `cim-worker desk` on a free port."""
    with running(COMMAND, "desk", log=log, CIM_DESK_PORT="0", **variables) as process:
        pattern = re.compile(r"The desk is at http://\S+:(\d+)/")
        wait_until(lambda: pattern.search(log.read_text()) or process.poll() is not None)
        found = pattern.search(log.read_text())
        assert found, log.read_text()
        yield Browser(int(found[1]))
