"""What the gateway answers: JSON objects, errors in the shape that clients of the platform's API read. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http import HTTPStatus

    from starlette.types import Send

    from worker.codes import Problem

JSON: Final = (b"content-type", b"application/json")


class Answer(NamedTuple):
    """One response."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = (JSON,)

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = [*self.headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(slots=True)
class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is not accepted."""

    status: HTTPStatus
    message: str
    """One sentence or more for whoever reads the client's log; no part of the request."""
    problems: Sequence[Problem] = ()
    code: str | None = None
    retry_after_seconds: int | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def answer(self, path: str) -> Answer:
        """Return the response to a request for *path*: Spring's shape, with all problems."""
        code = self.code or (self.problems[0].code.value if self.problems else None)
        document = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "status": self.status.value,
            "error": self.status.phrase,
            "message": self.message,
            "path": path,
            **({"code": code} if code else {}),
            **({"problems": [_written(one) for one in self.problems]} if self.problems else {}),
            **self.facts,
        }
        headers = [JSON, *self.headers]
        if self.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_seconds))
        return Answer(self.status.value, orjson.dumps(document), headers)


def refused_for(status: HTTPStatus, problems: Sequence[Problem]) -> Refused:
    """Return the refusal of a message with *problems*, whose first one is what people see."""
    first = problems[0]
    message = f"{first.pointer}: {first.expected}" if first.pointer else first.expected
    if len(problems) > 1:
        message += f" ({len(problems) - 1} more in `problems`.)"
    return Refused(status, message, problems)


def _written(problem: Problem) -> dict[str, str]:
    return {"code": problem.code.value, "pointer": problem.pointer, "expected": problem.expected}
