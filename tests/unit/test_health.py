"""The pool's HTTP port: live, ready and metrics, whatever else its clients do."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.eventually import eventually_async
from worker.ops.checks import Check
from worker.web.health import health_server
from worker.web.listening import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AWAY = Check("broker", "broker unavailable since 2025-11-24T16:00:00Z: Connection refused")


@asynccontextmanager
async def served(*checks: Check, live: bool = True) -> AsyncIterator[int]:
    server = health_server(
        listen("127.0.0.1", 0),
        live=lambda: (live, {"live": live}),
        checks=lambda: checks,
        exposition=lambda: b"cim_received_total 7\n",
    )
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body.decode()


async def test_a_live_pool_says_so_even_when_it_is_not_ready() -> None:
    async with served(AWAY) as port:
        assert await get(port, "/livez") == (200, '{"live":true}')


async def test_a_pool_with_a_process_that_cannot_be_replaced_is_not_live() -> None:
    async with served(live=False) as port:
        assert (await get(port, "/livez"))[0] == 503


async def test_ready_means_that_every_check_passed() -> None:
    async with served(Check("broker"), Check("store")) as port:
        status, body = await get(port, "/readyz?verbose=1")
    document = json.loads(body)
    assert (status, document["ready"], document["reasons"]) == (200, True, [])
    assert [check["name"] for check in document["checks"]] == ["broker", "store"]


async def test_not_ready_is_503_with_every_check_and_its_reason() -> None:
    async with served(AWAY, Check("store")) as port:
        status, body = await get(port, "/readyz")
    document = json.loads(body)
    assert (status, document["ready"], document["reasons"]) == (503, False, [AWAY.reason])
    assert document["checks"] == [
        {"name": "broker", "ok": False, "reason": AWAY.reason},
        {"name": "store", "ok": True, "reason": None},
    ]


async def test_metrics_are_served() -> None:
    async with served() as port:
        assert await get(port, "/metrics") == (200, "cim_received_total 7\n")


@pytest.mark.parametrize("path", ["/health/ready", "/", "/metrics/", "/%1b[2J"])
async def test_a_probe_that_asks_for_another_path_is_told_which_there_are_and_reported_once(path: str) -> None:
    with capture_logs() as lines:
        async with served() as port:
            for _ in range(3):
                status, body = await get(port, path)
                assert (status, "/readyz" in body) == (404, True)
    (line,) = [line for line in lines if line["event"] == "http_path_unknown"]
    assert line["fix"] == "there are /livez, /readyz, /metrics"
    assert line["path"].isprintable()


async def test_two_hundred_half_open_scrapes_do_not_keep_a_probe_from_its_answer() -> None:
    async with served() as port:
        half_open = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _, writer in half_open:
            writer.write(b"GET /metrics HT")

        async def is_answered() -> bool:
            return (await get(port, "/livez"))[0] == 200

        await eventually_async(is_answered, seconds=10)
        for _, writer in half_open:
            writer.close()
