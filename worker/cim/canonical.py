"""What makes two messages the same: their canonical content, and the ids that follow from it. No I/O.

The canonical content of a message is the message as it was sent, written again in one way: UTF-8 without blanks, the
members of every object in the order of their names' code points, strings with the least escaping JSON allows, and every
number digit for digit as it was sent. `schemas/identity-vectors.json` has examples for whoever builds this elsewhere.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import orjson

_EVENT_ID_DIGITS: Final = 24


def write_canonical(document: dict[str, Any]) -> bytes:
    """Return *document* as canonical content; numbers as the serialiser spells them."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def derived_id(content: bytes) -> str:
    """Return the id of a message that brings none: 24 hex digits that depend on its canonical content alone."""
    return sha256(content).hexdigest()[:_EVENT_ID_DIGITS]


def event_id(sender_id: str, message_id: str, content: bytes) -> str:
    """Return the event id of a message with this canonical content: 24 hex digits, the same for ever."""
    return sha256(b"%b\0%b\0%b" % (sender_id.encode(), message_id.encode(), content)).hexdigest()[:_EVENT_ID_DIGITS]


def keyed_event_id(sender_id: str, key: str) -> str:
    """Return the event id of a message that came with an idempotency key, whatever its content.

    The key stands where the content does, and no message id before it. Every message has an id, and no id holds a zero
    byte, so no content can lead to the same input.
    """
    return event_id(sender_id, "", key.encode())
