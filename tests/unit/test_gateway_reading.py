"""What the gateway reads of a request: the time a body may take, and headers that cannot be carried."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from worker.web.gateway import reading
from worker.web.gateway.answers import Refused
from worker.web.gateway.reading import Body, Budget, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator


def receive_of(parts: Iterator[bytes], clock: list[float]) -> Any:
    async def receive() -> dict[str, Any]:
        clock[0] += 4
        return {"type": "http.request", "body": next(parts), "more_body": True}

    return receive


async def test_a_body_may_take_ten_seconds_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(reading, "perf_counter", lambda: clock[0])
    budget = Budget(1000)
    body = Body(budget)
    with pytest.raises(Refused) as refused:
        await body.read(receive_of(iter([b"{", b"", b"x", b"never read"]), clock), None, 1000)
    assert (refused.value.status, clock) == (HTTPStatus.REQUEST_TIMEOUT, [12.0])
    body.release()
    assert (budget.held, budget._arriving) == (0, 0)


def header(name: bytes, value: bytes) -> dict[str, Any]:
    return {"headers": [(b"content-type", b"application/json"), (name, value)]}


@pytest.mark.parametrize("name", [b"correlationid", b"tenantid", b"traceparent", b"idempotency-key"])
@pytest.mark.parametrize(
    ("value", "says"),
    [(b"\xff", "not UTF-8"), (b"a\tb", "control"), ("a\x85b".encode(), "control"), (b"x" * 256, "255 bytes")],
)
def test_a_header_that_is_carried_is_short_text_without_control_characters(
    name: bytes, value: bytes, says: str
) -> None:
    with pytest.raises(Refused, match=says) as refused:
        read_head(header(name, value))
    assert refused.value.status is HTTPStatus.BAD_REQUEST
    assert read_head(header(b"correlationid", "Größe \u20ac".encode())).correlation_id == "Größe \u20ac"
