"""Timestamps as publishers send them, made into epoch milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

SECONDS_BELOW = 10**11
"""A number smaller than this (either sign) counts seconds: as milliseconds it would lie in 1966 to 1973."""
FIRST_MS = -62_135_596_800_000
"""0001-01-01T00:00:00Z in epoch milliseconds."""
LAST_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in epoch milliseconds."""

# The standard library reads more than ISO-8601 has, and less of it in older versions: 24:00 from Python 3.14 on only.
_ISO_8601 = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ](?:[01]\d|2[0-3]):\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
_DIGITS = re.compile(r"\d{1,16}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def moment(value: object, otherwise: int) -> int | None:
    """Return the time in `value` as epoch milliseconds, `otherwise` when it is null or blank, None when it is none."""
    if value is None or (type(value) is str and not value.strip()):
        return otherwise
    return to_epoch_ms(value)


def to_epoch_ms(value: object) -> int | None:
    """Return `value` as epoch milliseconds, or None when it is no timestamp or lies outside the years 1 to 9999.

    Takes numbers (seconds below 10^11, otherwise milliseconds), the same as a string of digits, and ISO-8601 text such
    as 2025-10-09T08:53:20.123+02:00 (without an offset: UTC).
    """
    if type(value) is str:
        if not _DIGITS.fullmatch(value):
            return _from_iso(value)
        value = int(value)
    if type(value) is int:
        milliseconds = value * 1000 if -SECONDS_BELOW < value < SECONDS_BELOW else value
    elif type(value) is float:
        milliseconds = round(value * 1000 if -SECONDS_BELOW < value < SECONDS_BELOW else value)
    else:
        return None
    return milliseconds if FIRST_MS <= milliseconds <= LAST_MS else None


def _from_iso(text: str) -> int | None:
    if not _ISO_8601.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    return milliseconds if FIRST_MS <= milliseconds <= LAST_MS else None
