"""What an id may be, for whoever names something: messages, lifecycle events and the command line. No I/O."""

from __future__ import annotations

import re
from typing import Final

MAX_ID_BYTES: Final = 242
"""Longest id of a place, in UTF-8 bytes: `conversation.<id>` has to fit into an AMQP short string of 255 bytes."""

# The control characters of Unicode (category Cc; Java's isISOControl, Go's IsControl), and halves of surrogate pairs,
# which only a command line can bring here.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def has_control_character(text: str) -> bool:
    """Tell whether *text* holds a control character: RabbitMQ strips some from names, terminals obey others."""
    return not text.isprintable() and _FORBIDDEN.search(text) is not None


def is_too_long(text: str) -> bool:
    """Tell whether *text*, without half surrogate pairs, is longer than `MAX_ID_BYTES`."""
    return len(text) > MAX_ID_BYTES // 4 and len(text.encode()) > MAX_ID_BYTES


def is_valid_id(text: str) -> bool:
    """Tell whether *text* can name a place: not blank, no control character, not longer than `MAX_ID_BYTES`."""
    return bool(text.strip()) and not has_control_character(text) and not is_too_long(text)
