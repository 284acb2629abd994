"""Payloads as they may be shown: values that may be personal are masked, their kind and length stay. No I/O."""

from __future__ import annotations

import json
from typing import Any, Final

_SHOWN: Final = frozenset(
    {
        ("id",),
        ("header", "timestamp"),
        ("header", "conversationId"),
        ("header", "channelSessionId"),
        ("header", "roomId"),
        ("header", "intent"),
        ("header", "replyToMessageId"),
        ("header", "providerMessageId"),
        ("header", "customer", "_id"),
        ("header", "sender", "id"),
        ("header", "sender", "type"),
        ("header", "language"),
        ("header", "language", "code"),
        ("header", "schedulingMetaData", "timestamp"),
    }
)
"""Places whose values are ids, kinds and times: what one needs to find the fault, and lists show anyway."""
_KINDS: Final = frozenset({"type", "mimeType", "leg", "callId", "formId"})
"""Names of members that say what something is, wherever they stand in the body."""


def masked(document: object) -> Any:
    """Return a message whose values are replaced by their kind and length, but for ids, kinds and times."""
    return _masked(document, ())


def unmasked_text(body: bytes) -> str:
    """Return a body pretty-printed if it is JSON, else as text."""
    try:
        return pretty(json.loads(body))
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def masked_text(body: bytes) -> str:
    """Return a body pretty-printed and masked; of what is no JSON only how much there is."""
    try:
        return pretty(masked(json.loads(body)))
    except (ValueError, RecursionError):
        return f"<{len(body)} bytes that are no JSON>"


def pretty(document: object) -> str:
    """Return JSON for people."""
    return json.dumps(document, ensure_ascii=False, indent=2)


def text_lines(text: str) -> list[str]:
    """Return the lines of a text as places in it are counted: a line feed ends one, and nothing else does."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _masked(value: object, path: tuple[str, ...]) -> object:
    if isinstance(value, dict):
        return {key: _masked(member, (*path, str(key))) for key, member in value.items()}
    if isinstance(value, list):
        return [_masked(entry, path) for entry in value]
    if value is None or isinstance(value, bool) or path in _SHOWN or (path[:1] == ("body",) and path[-1] in _KINDS):
        return value
    return f"<text of {len(value)}>" if isinstance(value, str) else "<number>"
