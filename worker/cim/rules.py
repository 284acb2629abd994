"""Rules of the contract that a field's type does not say, as JSON Schema for whoever validates elsewhere. No I/O.

The worker itself judges by `problems.py` and `timestamps.py`; tests hold both to the same verdicts. Patterns hold the
characters themselves instead of escapes, and no look-ahead, so that every regular expression engine reads them alike.
"""

from __future__ import annotations

from typing import Any, Final

from worker.cim.ids import MAX_ID_BYTES
from worker.cim.timestamps import FIRST_MS, LAST_MS, SECONDS_BELOW

JsonSchema = dict[str, Any]

WHITE: Final = "\t\n\x0b\x0c\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The inside of a character class: what `str.strip` takes away."""
_CONTROL: Final = "[\x00-\x1f\x7f-\x9f]"
NO_CONTROL: Final[JsonSchema] = {"not": {"pattern": _CONTROL}}
_LINE_END: Final = "[\n\r\x85\u2028\u2029]"
"""`$` matches before a last one in some languages."""

BLANK: Final = f"^[{WHITE}]*$"
NOT_BLANK: Final = f"[^{WHITE}]"
_DATE: Final = (
    "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|[12][0-9]))"
)
_HOURS: Final = "([01][0-9]|2[0-3])"
_SIXTY: Final = "[0-5][0-9]"
_ISO_8601: Final = f"^{_DATE}([T ]{_HOURS}:{_SIXTY}(:{_SIXTY}([.,][0-9]{{1,9}})?)?(Z|[+-]{_HOURS}(:?{_SIXTY})?)?)?$"


def _digits_up_to(number: int) -> str:
    """Return the pattern of what is written with as many decimal digits as *number* and is not greater."""
    digits = str(number)
    smaller = [
        f"{digits[:place]}[0-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "0"
    ]
    return "|".join((*smaller, digits))


_LAST_DIGITS: Final = len(str(LAST_MS))
_DIGITS: Final = f"^([0-9]{{1,{_LAST_DIGITS - 1}}}|0?({_digits_up_to(LAST_MS)}))$"

RULES: Final[dict[str, JsonSchema]] = {
    "Text": {"description": "Text that is not blank.", "type": "string", "pattern": NOT_BLANK},
    "MessageId": {
        "description": "Any text without control characters; a blank one counts as absent.",
        "type": "string",
        "anyOf": [{"pattern": BLANK}, NO_CONTROL],
    },
    "SenderId": {
        "description": "Text that is not blank, without control characters.",
        "type": "string",
        "pattern": NOT_BLANK,
        **NO_CONTROL,
    },
    "PlaceId": {
        "description": f"At most {MAX_ID_BYTES} bytes of UTF-8 without control characters; blank counts as absent.",
        "type": "string",
        "anyOf": [{"pattern": BLANK}, {"maxLength": MAX_ID_BYTES, **NO_CONTROL}],
    },
    "Timestamp": {
        "description": (
            f"Epoch milliseconds, or seconds when below {SECONDS_BELOW}, as a number or a string of digits; or "
            "ISO-8601, UTC when it has no offset; within the years 1 to 9999. Null and blank: the time of receipt."
        ),
        "anyOf": [
            {"type": "null"},
            {"type": "number", "minimum": FIRST_MS // 1000, "maximum": LAST_MS},
            {"type": "number", "minimum": FIRST_MS, "maximum": -SECONDS_BELOW},
            {"type": "string", "pattern": BLANK},
            {"type": "string", "pattern": _DIGITS, "not": {"pattern": _LINE_END}},
            {"type": "string", "pattern": _ISO_8601, "not": {"pattern": f"^0000|{_LINE_END}"}},
        ],
    },
}
"""By the name under which a schema defines them."""

ONE_ANCHOR: Final[list[JsonSchema]] = [
    {"required": ["conversationId"], "properties": {"conversationId": {"type": "string", "pattern": NOT_BLANK}}},
    {"required": ["channelSessionId"], "properties": {"channelSessionId": {"type": "string", "pattern": NOT_BLANK}}},
    {
        "required": ["customer"],
        "properties": {
            "customer": {
                "type": "object",
                "required": ["_id"],
                "properties": {"_id": {"type": "string", "pattern": NOT_BLANK}},
            }
        },
    },
]
"""Of a header: it names at least one place."""
