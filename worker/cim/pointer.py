"""JSON pointers (RFC 6901): how a problem names the field it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_POINTER = 256
"""Longest pointer, in characters: pointers travel in headers, and keys come from strangers."""


def pointer(path: Sequence[str | int]) -> str:
    """Return the pointer to `path`, or to the nearest container whose pointer fits into `MAX_POINTER`.

    Half surrogate pairs, which a header could not carry, become question marks.
    """
    text = ""
    for part in path:
        longer = f"{text}/{escape(str(part))}"
        if len(longer) > MAX_POINTER:
            break
        text = longer
    return text.encode("utf-8", "replace").decode("utf-8")


def escape(part: str) -> str:
    """Return *part* as it stands in a pointer."""
    return part.replace("~", "~0").replace("/", "~1")
