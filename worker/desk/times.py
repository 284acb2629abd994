"""Times as people write and read them. No I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from worker.cim.timestamps import to_epoch_ms

_AGO: Final = re.compile(r"(\d{1,9})(s|m|h|d|w)", re.ASCII)
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_time(text: str, now: int) -> int:
    """Return the epoch milliseconds of *text*: how long before *now*, or a time.

    `90s`, `15m`, `2h`, `7d` and `4w` are before now; else ISO-8601, without an offset in UTC, or epoch seconds or
    milliseconds. Raises ValueError with a sentence that says so.
    """
    text = text.strip()
    ago = _AGO.fullmatch(text)
    at = now - int(ago[1]) * _UNIT_MS[ago[2]] if ago else to_epoch_ms(text)
    if at is None:
        msg = f"a time is 90s, 15m, 2h, 7d or 4w (before now), or like 2026-01-31T12:00:00Z: not {text!r}"
        raise ValueError(msg)
    return at


def utc(at: int, *, timespec: str = "milliseconds") -> str:
    """Return epoch milliseconds as ISO-8601 in UTC; what no calendar holds as the number it is."""
    try:
        moment = _EPOCH + timedelta(milliseconds=at)
    except OverflowError:
        return str(at)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def duration(ms: int) -> str:
    """Return a time span in its largest two units: `3 d 4 h`, `12 min 5 s`, `8 s`, `17 ms`."""
    if ms < _UNIT_MS["s"]:
        return f"{max(ms, 0)} ms"
    seconds = ms // 1000
    spans = (("d", seconds // 86_400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    first = next(place for place, (_, number) in enumerate(spans) if number)
    return " ".join(f"{number} {unit}" for unit, number in spans[first : first + 2] if number)
