"""What schemathesis is not to hold against the gateway: rules of the contract that JSON Schema has no words for."""

from __future__ import annotations

from typing import Any

import schemathesis

from worker.cim.flaws import INT64_MAX, INT64_MIN


def filter_body(_: object, body: Any) -> bool:
    """Leave out integers beyond 64 bits: they are refused, 1e20 is not, and to JSON Schema the two are one number."""
    return not _has_large_integer(body)


schemathesis.hook(filter_body)


def _has_large_integer(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_large_integer, value.values()))
    if isinstance(value, list):
        return any(map(_has_large_integer, value))
    return type(value) is int and not INT64_MIN <= value <= INT64_MAX
