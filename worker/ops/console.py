"""A line of the log as a person reads it: when, how bad, what, why; then the rest, in the order it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_WHY: Final = ("reason", "problem", "difference", "fix")
"""What says why, in this order; it stands before everything else, as a sentence."""
_LAST: Final = ("pid", "exception")
_WHAT_WIDTH: Final = 26
_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}


class ConsoleLine:
    """Renders one line. A structlog processor."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
        """Return the line; a traceback follows on lines of its own."""
        facts = dict(event_dict)
        at, level = str(facts.pop("timestamp", "")), str(facts.pop("level", ""))
        what = str(facts.pop("event", "")).replace("_", " ")
        why = "; ".join(str(facts.pop(name)) for name in _WHY if facts.get(name))
        dependency = " at ".join(str(facts.pop(name)) for name in ("dependency", "address") if facts.get(name))
        sentence = ": ".join(part for part in (dependency, why) if part)
        rest = [f"{name}={_shown(value)}" for name, value in facts.items() if name not in _LAST and value is not None]
        if "pid" in facts:
            rest.append(self._in("2", f"pid={facts['pid']}"))
        parts = [
            self._in("2", at[11:19]),
            self._in(_COLOURS.get(level, "0"), f"{level:<7}"),
            self._in("1", f"{what:<{_WHAT_WIDTH}}"),
            *([sentence] if sentence else []),
            " ".join(rest),
        ]
        traceback = f"\n{facts['exception']}" if facts.get("exception") else ""
        return "  ".join(parts).rstrip() + traceback

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured else text


def _shown(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text
