"""The example messages of `schemas/examples`, and ways to spoil them."""

import copy
import json
from pathlib import Path
from typing import Any

from worker.cim import CimMessage, Rejected, parse

FOLDER = Path(__file__).parents[2] / "schemas" / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
RECEIVED_AT = 1_760_000_111_222


def raw(name: str) -> bytes:
    return (FOLDER / f"{name}.json").read_bytes()


def document(name: str = "loan_step") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(raw(name))
    return loaded


def spoilt(path: str, value: Any, name: str = "loan_step") -> dict[str, Any]:
    """Return an example with another value at a slash-separated path; `...` removes the member."""
    whole = copy.deepcopy(document(name))
    *parents, last = path.split("/")
    place: Any = whole
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return whole


def encode(message: Any) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


def judge(message: Any, **limits: Any) -> CimMessage | Rejected:
    return parse(message if isinstance(message, bytes) else encode(message), received_at=RECEIVED_AT, **limits)


def accepted(message: Any) -> CimMessage:
    result = judge(message)
    assert isinstance(result, CimMessage), result
    return result


def problems(message: Any, **limits: Any) -> list[tuple[str, str]]:
    """Return (code, pointer) of everything wrong with a message."""
    result = judge(message, **limits)
    assert isinstance(result, Rejected), "it was accepted"
    return [(str(problem.code), problem.pointer) for problem in result.problems]
