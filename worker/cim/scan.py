"""The first look at a body: is it compact JSON of which nothing can be lost, and what is its canonical content?

Most serialisers write compact JSON. Whatever else comes is decoded the slow way, by `decode`.
Two forms give the same answers: `scan_purely`, which parses and writes again, and `worker.compiled.scan`, which takes a
fifth of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from worker import compiled
from worker.cim.canonical import write_canonical
from worker.cim.decode import DEEPEST, compact, is_too_deep


class Scanned(NamedTuple):
    """What is known of compact JSON of which nothing can be lost."""

    content: bytes
    """Its canonical content."""
    sender: bytes | None
    """The JSON of `header.sender`, None where there is none."""
    body_type: bytes | None
    """The JSON of `body.type`, None where there is none."""
    document: dict[str, Any] | None
    """What it says, where that was parsed already."""
    customer_gap: tuple[int, int] | None = None
    """From where to where `header.customer` is null in the bytes; an empty span at the header's end where it is absent;
    None when it is there, or was not looked for."""
    timestamp_end: int = 0
    """Where the digits of `header.timestamp` end; 0 when it is no positive number, or was not looked for."""


def scan(body: bytes, max_depth: int) -> Scanned | None:
    """Return what is known of *body* when it is compact JSON nested at most *max_depth* levels deep, else None."""
    max_depth = min(max_depth, DEEPEST)
    if compiled.scan is not None:
        parts = compiled.scan.scan(body, max_depth)
        if parts is not None:
            return tuple.__new__(Scanned, parts)
    return scan_purely(body, max_depth)


def scan_purely(body: bytes, max_depth: int) -> Scanned | None:
    """As `scan`, and the document with it."""
    document = None if is_too_deep(body, max_depth) else compact(body)
    if document is None:
        return None
    sender, body_type = _member(document.get("header"), "sender"), _member(document.get("body"), "type")
    return Scanned(write_canonical(document), sender, body_type, document)


def _member(parent: object, name: str) -> bytes | None:
    return orjson.dumps(parent[name]) if type(parent) is dict and name in parent else None
