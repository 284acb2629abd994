"""Works out event ids without the worker's code. Each line of standard input: a body in Base64, and a key or nothing.

Prints the message id in Base64, the event id and the canonical content in Base64 for each. The programs beside this one
do the same in other languages, for publishers to take over.
"""

from __future__ import annotations

import base64
import json
import sys
from hashlib import sha256
from typing import Any


class Number(str):
    """A number, as it was spelled."""

    __slots__ = ()


def read(body: bytes) -> Any:
    """Return what a body says, its numbers as texts of their own kind."""
    return json.loads(body, parse_int=Number, parse_float=Number)


def write(value: Any) -> str:
    """Return the canonical content."""
    if isinstance(value, Number):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{write(name)}:{write(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def digits(*parts: str) -> str:
    """Return the first 12 bytes of the SHA-256 of *parts* with zero bytes between them."""
    return sha256("\0".join(parts).encode()).hexdigest()[:24]


def identify(body: bytes, key: str) -> tuple[str, str, bytes]:
    """Return message id, event id and canonical content."""
    message = read(body)
    content = write(message)
    message_id = message.get("id") or ""
    message_id = message_id if message_id.strip() else digits(content)
    sender_id = message["header"]["sender"]["id"]
    event_id = digits(sender_id, "", key) if key.strip() else digits(sender_id, message_id, content)
    return message_id, event_id, content.encode()


if __name__ == "__main__":
    for line in sys.stdin:
        encoded, _, key = line.rstrip("\n").partition(" ")
        message_id, event_id, content = identify(base64.b64decode(encoded), key)
        print(base64.b64encode(message_id.encode()).decode(), event_id, base64.b64encode(content).decode())
