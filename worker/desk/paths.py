"""Places in a message, written as people do (`header.sender.type`, `body.items.0.name`): read, set, unset. No I/O."""

from __future__ import annotations

import difflib
from typing import Any, Final

from worker.desk.errors import usage
from worker.desk.numbers import whole_number

Path = tuple[str | int, ...]
_ROOTS: Final = ("id", "header", "body")
"""The members of a CIM message."""


def parse_path(text: str) -> Path:
    """Return the parts of a dotted path, or of a JSON pointer. Raises `DeskError` for what is not in a message."""
    parts = text.removeprefix("/").replace("/", ".").split(".") if text.startswith("/") else text.split(".")
    if not all(parts):
        raise usage(f"{text!r} is no field of a message; write it like header.sender.type")
    if parts[0] not in _ROOTS:
        alike = difflib.get_close_matches(parts[0], _ROOTS, n=1)
        hint = f"did you mean {'.'.join([alike[0], *parts[1:]])!r}? " if alike else ""
        raise usage(f"{text!r} is no field of a message; {hint}a message has id, header and body")
    return tuple(part if (place := whole_number(part)) is None else place for part in parts)


def dotted(path: Path) -> str:
    """Return a path as people write it."""
    return ".".join(map(str, path))


def value_at(document: object, path: Path, default: object = None) -> Any:
    """Return what is at *path*, or *default*."""
    for part in path:
        if isinstance(document, dict):
            key = str(part)
            if key not in document:
                return default
            document = document[key]
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return default
    return document


def set_at(document: Any, path: Path, value: object) -> bool:
    """Put *value* at *path*, making objects on the way; tell whether that could be done."""
    *parents, last = path
    for part in parents:
        if isinstance(document, list):
            if not isinstance(part, int) or part >= len(document):
                return False
            document = document[part]
        elif isinstance(document, dict):
            key = str(part)
            if document.get(key) is None:
                document[key] = {}
            document = document[key]
        else:
            return False
    if isinstance(document, dict):
        document[str(last)] = value
        return True
    if isinstance(document, list) and isinstance(last, int) and last < len(document):
        document[last] = value
        return True
    return False


def unset_at(document: Any, path: Path) -> bool:
    """Take away what is at *path*; tell whether there was something."""
    *parents, last = path
    holder = value_at(document, tuple(parents)) if parents else document
    if isinstance(holder, dict) and str(last) in holder:
        del holder[str(last)]
        return True
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        del holder[last]
        return True
    return False
