"""Numbers as people write them. No I/O."""

from __future__ import annotations

from typing import Final

_MOST_DIGITS: Final = 9


def whole_number(text: str) -> int | None:
    """Return the number that *text*, digits and nothing else, stands for; None when it is none, or absurdly large."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None
