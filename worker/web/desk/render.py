"""Templates and what they may call. Everything is escaped; text from strangers loses what is not visible."""

from __future__ import annotations

import shlex
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import jinja2

from worker import __version__
from worker.desk.details import dotted
from worker.desk.times import duration, utc
from worker.desk.wording import code_in_words
from worker.ops.printable import printable

if TYPE_CHECKING:
    from worker.web.desk.door import Caller

_SHORT_DIGITS: Final = 8


class Page:
    """What a handler found: a template and the facts for it."""

    def __init__(self, template: str, title: str, status: int = 200, **facts: Any) -> None:
        """*title* is what the browser shows; *facts* what the template knows by name."""
        self.template = template
        self.title = title
        self.status = status
        self.facts = facts


def render(page: Page, *, caller: Caller | None, form: str, can_go_out: bool, read_only: bool) -> bytes:
    """Return the HTML of *page*; *form* is the value that its forms carry."""
    template = _environment().get_template(page.template)
    return template.render(
        **page.facts,
        page="",
        title=page.title,
        caller=caller,
        form=form,
        can_go_out=can_go_out,
        read_only=read_only,
        version=__version__,
    ).encode("utf-8", "replace")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worker.web.desk"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "utc": lambda at: utc(at, timespec="seconds") if at else "unknown",
        "span": duration,
        "dotted": dotted,
        "meaning": code_in_words,
        "number": lambda number: f"{number:,}".replace(",", "\u202f"),
        "short": lambda text: str(text)[:_SHORT_DIGITS],
        "shell": shlex.quote,
    }
    return environment


def _visible(value: object) -> object:
    """Return what is put into a page: no control characters, and nothing that changes the direction of writing."""
    if value is None:
        return ""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))
