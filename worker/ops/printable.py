"""Makes text from strangers safe to show: ids and names may hold terminal codes, line ends and half surrogates."""

from __future__ import annotations

import unicodedata
from typing import Final

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """Return *text* on one line: whatever is neither visible nor a space is replaced.

    That is all control and format characters, so no terminal code and no change of the writing direction gets through.
    """
    return text if text.isprintable() else "".join(one if is_printable(one) else _REPLACEMENT for one in text)


def is_printable(character: str) -> bool:
    """Tell whether a terminal shows *character* as itself; of white space only spaces count."""
    return character.isprintable() or unicodedata.category(character) == "Zs"
