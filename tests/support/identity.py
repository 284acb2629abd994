"""The ids the contract promises, worked out without the worker's own code."""

from __future__ import annotations

import json
from typing import Any

from tests.identity.identity import identify


def event_id_of(message: dict[str, Any] | bytes, key: str = "") -> str:
    """Return the event id of a message that came with the idempotency key *key*, if it came with one."""
    return identify(_body(message), key)[1]


def content_of(message: dict[str, Any] | bytes) -> bytes:
    """Return the canonical content of a message."""
    return identify(_body(message), "")[2]


def _body(message: dict[str, Any] | bytes) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode()
