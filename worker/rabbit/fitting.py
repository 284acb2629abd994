"""Headers that fit into one frame: AMQP never splits a header frame, and a connection's frames may be 4096 bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worker import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Headers = Mapping[str, str | int]

_SHORTER = (256, 128, 64, 32)
"""Characters that texts for people are cut to, one after the other."""
_TEXTS = (
    contract.POINTER,
    contract.DETAIL,
    contract.SENDER_ID,
    contract.SENDER_NAME,
    contract.MESSAGE_ID,
    contract.CONVERSATION_ID,
)
_TRACE = (contract.TRACESTATE, contract.TRACEPARENT)
_LEAST = (
    *(contract.CODE, contract.CLASS, contract.STAGE, contract.ATTEMPT, contract.FAILED_AT, contract.PUBLISH),
    *(contract.REPLAY_OF, contract.REPLAY_JOB, contract.REPLY_TO, contract.RECEIPTS),
)
_COMPACT = json.JSONEncoder(separators=(",", ":"))


def fit(encode: Callable[[Headers], bytes], headers: Headers, max_bytes: int) -> bytes:
    """Return what *encode* makes of the largest version of *headers* that takes at most *max_bytes*.

    Raises ValueError when even the least does not fit.
    """
    for smaller in _ever_smaller(headers):
        encoded = encode(smaller)
        if len(encoded) <= max_bytes:
            return encoded
    msg = f"the properties do not fit into {max_bytes} bytes"
    raise ValueError(msg)


def _ever_smaller(headers: Headers) -> Iterator[Headers]:
    """Yield fewer problems first, then shorter texts, then no trace and no problems, and last only the reason."""
    problems = _problems(headers)
    for count in range(len(problems) - 1, 0, -1):
        yield {**headers, contract.PROBLEMS: _COMPACT.encode(problems[:count])}
    short = dict(headers)
    for limit in _SHORTER:
        short = {name: _shorter(name, value, limit) for name, value in short.items()}
        if problems:
            first = {key: _shorter(contract.DETAIL, value, limit) for key, value in problems[0].items()}
            short[contract.PROBLEMS] = _COMPACT.encode([first])
        yield short
    short = {name: value for name, value in short.items() if name not in _TRACE}
    yield short
    yield {name: value for name, value in short.items() if name != contract.PROBLEMS}
    yield {name: value for name, value in short.items() if name in _LEAST}


def _problems(headers: Headers) -> list[dict[str, Any]]:
    """Return the list of problems among *headers*, if it is one that we wrote."""
    try:
        listed = json.loads(str(headers.get(contract.PROBLEMS, "[]")))
    except ValueError:
        return []
    return listed if isinstance(listed, list) and all(isinstance(one, dict) for one in listed) else []


def _shorter(name: str, value: Any, limit: int) -> Any:
    return value[:limit] if name in _TEXTS and isinstance(value, str) else value
