"""Live, ready and metrics over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually_async
from worker.web.health import HealthServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REASONS: list[str] = []


@asynccontextmanager
async def served(*reasons: str) -> AsyncIterator[int]:
    """Yield the port of a server that gives *reasons* for not being ready."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    server = HealthServer(lambda: list(reasons), lambda: b"cim_received_total 7\n")
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop()
    assert not complaints


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def get(port: int, path: str) -> tuple[int, str]:
    answer = await exchange(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head.split()[1]), body.decode()


async def test_a_live_process_says_so_even_when_it_is_not_ready() -> None:
    async with served("store unavailable") as port:
        assert (await get(port, "/health/live"))[0] == 200


async def test_ready_means_no_reason_against_it() -> None:
    async with served() as port:
        status, body = await get(port, "/health/ready?verbose=1")
        assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})


async def test_not_ready_is_503_with_every_reason() -> None:
    async with served("not consuming", "store unavailable") as port:
        status, body = await get(port, "/health/ready")
        assert (status, json.loads(body)["reasons"]) == (503, ["not consuming", "store unavailable"])


async def test_metrics_are_served_and_nothing_else_is() -> None:
    async with served() as port:
        assert await get(port, "/metrics") == (200, "cim_received_total 7\n")
        assert (await get(port, "/"))[0] == 404


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b"x" * 100_000 + b"\r\n\r\n"])
async def test_what_is_no_http_ends_the_connection_quietly_and_harms_nobody(request_: bytes) -> None:
    async with served() as port:
        assert b"200" not in await exchange(port, request_)
        assert (await get(port, "/health/live"))[0] == 200


async def test_slow_clients_are_held_in_bounded_number_and_make_room_when_they_go() -> None:
    async with served() as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(150)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in slow]
        await eventually_async(lambda: sum(one.done() for one in ended) >= 150 - 64, seconds=4)
        assert sum(one.done() for one in ended) == 150 - 64
        for _, writer in slow:
            writer.close()
        await asyncio.wait(ended)
        await eventually_async(lambda: answers(port))


async def answers(port: int) -> bool:
    return b"200 OK" in await exchange(port, b"GET /health/live HTTP/1.1\r\n\r\n")


async def test_a_client_that_hangs_up_is_no_trouble() -> None:
    async with served() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health")
        writer.close()
        await writer.wait_closed()
        assert (await get(port, "/health/live"))[0] == 200


async def test_a_taken_port_is_an_error_at_start() -> None:
    async with served() as port:
        with pytest.raises(OSError, match="in use"):
            await HealthServer(lambda: REASONS, lambda: b"").start("127.0.0.1", port)
