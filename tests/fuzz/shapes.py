"""Where the inputs come from: the real shapes of `schemas/examples`, spoilt a little, and bytes that were never JSON.

Every input is a Python literal (bytes, numbers, tuples), so that a failing one can be saved, read and replayed.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
MESSAGES = tuple(path.read_bytes() for path in sorted(EXAMPLES.glob("*.json")))
LIFECYCLE_EVENTS = tuple(path.read_bytes() for path in sorted(EXAMPLES.glob("lifecycle/*.json")))

CANARY = "canary-4b1d"
"""Stands for what customers write: planted in values, and never to be seen in a header or a log."""


def among(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Pick one of *values*, as `sampled_from`, which would write out all of them whenever hypothesis names it."""
    return st.integers(0, len(values) - 1).map(lambda index: values[index])


_HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, -0.0, 2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**40),
    *(1e308, 5e-324, float("nan"), float("inf"), 1e22, 1_760_000_000, 1_760_000_000_123, 10**11, 10**11 - 1, -1e14),
    *("", " ", "\x00", "a\nb\x1b[31m", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "x" * 243, "ü" * 121, "😀" * 61),
    *("2025-10-09T08:53:20.123+02:00", "2025-02-30T00:00:00Z", "0001-01-01", "9999-12-31T23:59:59Z", "1760000000"),
    *("CLOSED", "ACTIVE", "PLAIN", "WRAPUP", "CUSTOM", "constructor", "__proto__", "$where", "a.b", "conversation.x"),
    *([], {}, [[]], [None], [{}], {"": 0}, {"$ne": None}, {"a.b": 1}, {"\x00": 1}, {"_id": 1}, [1, "1", None]),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
_VALUES = among(_HOSTILE_VALUES) | st.just(CANARY) | _JSON
_CHUNKS = (
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\\ud83d", b"\\x", b'"', b"{", b"}", b"[", b"]"),
    *(b",", b":", b"NaN", b"-Infinity", b"1e999", b"-0", b"00", b"9" * 5000, b'{"a":1,"a":2}', b"[" * 70, b"\\", b"//"),
)
_OPERATIONS = ("replace", "replace", "replace", "delete", "add", "rename", "repeat", "nest", "canaries")

Spoiling = tuple[str, int, Any]


def messages() -> st.SearchStrategy[bytes]:
    """Bodies: mutated examples, generated JSON, raw bytes."""
    return _bodies(MESSAGES)


def lifecycle_events() -> st.SearchStrategy[bytes]:
    """Bodies of conversation lifecycle events, mutated."""
    return _bodies(LIFECYCLE_EVENTS)


def spoilings() -> st.SearchStrategy[Spoiling]:
    """Ways to spoil a document at one place."""
    return st.tuples(st.sampled_from(_OPERATIONS), st.integers(0, 400), _VALUES)


def spoilt(example: bytes, spoilings: list[Spoiling]) -> bytes:
    """Return the document *example* with each of *spoilings*, as compact JSON."""
    document = json.loads(example)
    for spoiling in spoilings:
        _spoil(document, spoiling)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _bodies(examples: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    document = st.builds(
        _spoilt_document,
        among(examples),
        st.lists(spoilings(), max_size=4),
        st.booleans(),
    )
    damage = st.lists(
        st.tuples(
            st.sampled_from(("insert", "cut", "overwrite", "truncate")),
            st.integers(0, 4000),
            among(_CHUNKS) | st.binary(min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=3,
    )
    damaged = st.builds(damaged_bytes, document, damage)
    foreign = st.builds(_encoded, _JSON, st.booleans()) | st.binary(max_size=200)
    return weighted((8, document), (2, damaged), (1, foreign))


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Pick among strategies by weight; `one_of` picks evenly."""
    ballot = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.sampled_from(ballot).flatmap(lambda strategy: strategy)


def damaged_bytes(body: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    """Return *body* with each (operation, position, chunk) of *damage* applied."""
    for operation, position, chunk in damage:
        at = position % (len(body) + 1)
        if operation == "truncate":
            body = body[:at]
        else:
            kept = at + {"insert": 0, "overwrite": len(chunk), "cut": len(chunk)}[operation]
            body = body[:at] + (b"" if operation == "cut" else chunk) + body[kept:]
    return body


def _spoilt_document(example: bytes, spoilings: list[Spoiling], ascii_only: bool) -> bytes:  # noqa: FBT001 - from a strategy
    document = json.loads(example)
    for spoiling in spoilings:
        _spoil(document, spoiling)
    return _encoded(document, ascii_only)


def _encoded(document: Any, ascii_only: bool) -> bytes:  # noqa: FBT001 - from a strategy
    return json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _spoil(document: Any, spoiling: Spoiling) -> None:
    operation, position, value = spoiling
    places = list(_places(document))
    if operation == "canaries":
        _plant(document)
    elif places:
        container, key = places[position % len(places)]
        # A value is drawn once and may be planted twice: without a copy it could end up inside itself.
        _CHANGES[operation](container, key, copy.deepcopy(value), position)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key or index) below *value*, in document order."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, member in members:
        found.append((value, key))
        found += _places(member)
    return found


def _plant(document: Any) -> None:
    """Put the canary into every text, apart from the ids and names that letters and logs may carry."""
    for container, key in _places(document):
        if isinstance(container[key], str) and key not in {"id", "_id", "type", "name", "senderName", "conversationId"}:
            container[key] = CANARY


def _replace(container: Any, key: Any, value: Any, _: int) -> None:
    container[key] = value


def _delete(container: Any, key: Any, _: Any, __: int) -> None:
    del container[key]


def _add(container: Any, _: Any, value: Any, position: int) -> None:
    if isinstance(container, list):
        container.insert(position % (len(container) + 1), value)
    else:
        container[value if isinstance(value, str) else f"k{position}"] = value


def _rename(container: Any, key: Any, value: Any, position: int) -> None:
    if isinstance(container, dict):
        container[value if isinstance(value, str) else f"k{position}"] = container.pop(key)


def _repeat(container: Any, key: Any, _: Any, position: int) -> None:
    if isinstance(container[key], list):
        container[key] *= position % 40


def _nest(container: Any, key: Any, value: Any, position: int) -> None:
    for level in range(position % 90):
        value = [value] if level % 2 else {"n": value}
    container[key] = value


_CHANGES: dict[str, Callable[[Any, Any, Any, int], None]] = {
    "replace": _replace,
    "delete": _delete,
    "add": _add,
    "rename": _rename,
    "repeat": _repeat,
    "nest": _nest,
}
