"""What a request asks for: who, which letters, and the form it sent. Turns what is wrong into a sentence."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from worker.dead_letters.letter import DECIDED
from worker.desk.errors import Kind, usage
from worker.desk.filter import NAMES, parse_filter
from worker.desk.query import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.web.desk.door import Caller
    from worker.web.desk.opening import Office
    from worker.web.desk.tasks import Tasks

_MOST_BYTES: Final = 16 * 1024 * 1024
_MOST_FIELDS: Final = 50
STATUS: Final = {Kind.USAGE: 400, Kind.NOT_FOUND: 404, Kind.REJECTED: 409}
"""Of the answer that says what could not be done."""
PROGRAM: Final = ("cim-worker", "dead-letters")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of somebody who was let in."""

    request: Request
    office: Office
    tasks: Tasks
    caller: Caller
    form: Mapping[str, str]
    """What was sent with it; empty unless it changes something."""

    @property
    def desk(self) -> Desk:
        """The desk, for this person."""
        return self.office.desk(self.caller.user, may_change=self.caller.may_change)

    @property
    def now(self) -> int:
        """Epoch milliseconds."""
        return self.office.clock.now_ms()

    def text(self, name: str) -> str:
        """Return a value of the form, or of the address."""
        return (self.form.get(name) or self.request.query_params.get(name, "")).strip()

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])

    async def chosen(self) -> Chosen:
        """Return the letters that are meant: the filter `q`, and the cause or letter `name`. Raises `DeskError`."""
        return await choose(self.desk, self.text("q"), self.text("name"), now=self.now)

    async def open_letters(self, done: str) -> Chosen:
        """Return the letters that are meant. Raises `DeskError` if not all are open: no others can be *done*."""
        chosen = await self.chosen()
        chosen.filter.to_be(done)
        return chosen


@dataclass(frozen=True, slots=True)
class Chosen:
    """Letters that are meant."""

    filter: Filter
    q: str
    """The filter as it was written."""
    name: str
    """The cause or letter, empty for all of the filter."""

    @property
    def can_be_restored(self) -> bool:
        """Whether these are letters that were decided, or of any status."""
        return not self.filter.is_open and DECIDED.issuperset(self.filter.status)

    def command(self, verb: str, *options: str) -> str:
        """Return the command that does the same."""
        words = [self.name] if self.name else []
        return shlex.join([*PROGRAM, verb, *words, *split(self.q), *options])

    def address(self, path: str, **more: str) -> str:
        """Return a link to *path* that means the same letters."""
        values = {name: value for name, value in {"name": self.name, "q": self.q, **more}.items() if value}
        return f"{path}?{urlencode(values)}" if values else path


async def choose(desk: Desk, q: str, name: str, *, now: int) -> Chosen:
    """Return the letters of a filter as one writes it on the command line, narrowed to a cause or letter."""
    words, names = _words(split(q))
    chosen = await resolve(desk, [*names, *([name] if name else [])], parse_filter(words, now=now))
    return Chosen(chosen, q, name)


def split(q: str) -> list[str]:
    """Return the words of a filter. Raises `DeskError` for a quote that does not end."""
    try:
        return shlex.split(q)
    except ValueError:
        raise usage("a quote in the filter does not end") from None


async def read_form(request: Request, *, max_bytes: int = _MOST_BYTES) -> dict[str, str]:
    """Return the fields of a form. Raises `DeskError` for one that is too large."""
    size, parts = 0, []
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise usage(f"a form holds at most {max_bytes} bytes")
        parts.append(part)
    try:
        return dict(parse_qsl(b"".join(parts).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise usage("that is no form of this page") from None


def _words(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    found: dict[str, list[str]] = {}
    names: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            names.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                raise usage(f"--{name} needs a value: --{name} VALUE; filters are {', '.join(NAMES)}")
            value = left.pop(0)
        found.setdefault(name, []).append(value)
    return found, names


def facts(**values: Any) -> dict[str, Any]:
    """Return what a page shows, by the names its template knows."""
    return values
