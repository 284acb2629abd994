"""Pages for people: single files that ask for nothing else. No I/O but the templates beside this module."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from worker.codes import Disposition
from worker.schemas.reasons import catalogue

_THEN = {
    Disposition.DEAD: "dead-lettered at once",
    Disposition.RETRIED: "retried, then dead-lettered",
    Disposition.HELD: "waits; nothing is lost or dead-lettered for this",
}


def reasons_page() -> str:
    """Return the catalogue of reasons as a page."""
    return _render("reasons.html", **catalogue(), then={one.value: words for one, words in _THEN.items()})


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("worker.schemas"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _render(template: str, **facts: Any) -> str:
    return _environment().get_template(template).render(**facts)
