"""Keeps one cause from filling the log: of lines alike, so many within ten seconds, and then their number."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_WINDOW_SECONDS: Final = 10.0
_MOST: Final = 100
"""Lines alike within that time."""
_MAX_KINDS: Final = 1000
_LOST: Final = "log_lines_dropped"
"""Says how many lines were lost: dropped itself, the number would be too small."""


@dataclass(slots=True)
class _Kind:
    began_at: float
    count: int = 0
    suppressed: int = 0


def limit_repetition() -> Processor:
    """Return a structlog processor that drops what repeats; lines are alike when event, code and reason are.

    The next line of that kind, once the time is over, says how many were dropped: its field `suppressed`.
    """
    kinds: dict[tuple[object, ...], _Kind] = {}

    def limit(_logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
        if method == "debug" or event_dict.get("event") == _LOST:  # whoever asks for it wants all of it
            return event_dict
        now = monotonic()
        key = tuple(event_dict.get(name) for name in ("event", "code", "reason"))
        kind = kinds.get(key)
        if kind is None or now - kind.began_at >= _WINDOW_SECONDS:
            if len(kinds) >= _MAX_KINDS:
                kinds.clear()
            if kind is not None and kind.suppressed:
                event_dict["suppressed"] = kind.suppressed
            kind = kinds[key] = _Kind(now)
        kind.count += 1
        if kind.count > _MOST:
            kind.suppressed += 1
            raise structlog.DropEvent
        return event_dict

    return limit
